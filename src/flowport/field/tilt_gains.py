"""Weights that relate a tilt of the law to the changes of velocity, score and predicted end point.

References:
    Domingo-Enrich et al. 2024, "Adjoint matching: fine-tuning flow and diffusion generative models with memoryless
    stochastic optimal control", arXiv:2409.08861.
"""

from torch import Tensor

from flowport.path.base import Coefficients


class TiltGains:
    """Weights at given times between a tilt h of the end law, Δv, Δs and ΔE[x1 | x], each weight (B,).

    With x_t = β x1 + n ε + (a function of x0), h_t(x) = E[h(X1) | X_t = x] and the memoryless volatility g,

        Δv = η ∇ log h,    Δs = ∇ log h,    ΔE[x1 | x] = (n²/β) ∇ log h,    η = g²/2 = n(nβ̇ − ṅβ)/β.

    Args:
        coefficients: β and β̇ of the path, each (B,).
        amplitude: (n, ṅ), each (B,): weight of the noise in x_t (α where the source is the noise, γ on a bridge that
            is a function of x0) and its derivative.

    Attributes:
        beta: β.
        variance: n².
        speed: β η = n(nβ̇ − ṅβ), finite at both ends.
    """

    def __init__(self, coefficients: Coefficients, amplitude: tuple[Tensor, Tensor]) -> None:
        n, dn = amplitude
        self.beta, self.variance = coefficients.beta, n**2
        self.speed = n * (n * coefficients.dbeta - dn * coefficients.beta)  # β η

    @property
    def eta(self) -> Tensor:
        """Weight η = g²/2 of Δv = η ∇ log h, g the memoryless volatility; infinite at β = 0 if the source is noise."""
        return self.speed / self.beta

    @property
    def unit(self) -> Tensor:
        """Weight β/(n² + β²), the size of ∇ log h for a reward gradient of order 1 where Cov(x1) = I."""
        return self.beta / (self.variance + self.beta**2)

    @property
    def unit_velocity(self) -> Tensor:
        """Weight η β/(n² + β²), the corresponding size of Δv, computed without the division by β."""
        return self.speed / (self.variance + self.beta**2)

    @property
    def end(self) -> Tensor:
        """Weight n²/(β η) of ΔE[x1 | x] = n²/(β η) Δv."""
        return self.variance / self.speed

    @property
    def spread(self) -> Tensor:
        """Standard deviation n/√(n² + β²) of x1 given x_t where Cov(x1) = I."""
        return (self.variance / (self.variance + self.beta**2)).sqrt()
