"""The weights that relate a tilt of the law, a change of the velocity and a change of the predicted end point."""

from torch import Tensor

from flowport.path.base import Coefficients


class TiltGains:
    """The weights that turn Δv into G at one time, (B,) each: n, ṅ, β, β̇ of a path whose noise has the weight n."""

    def __init__(self, coefficients: Coefficients, amplitude: tuple[Tensor, Tensor]) -> None:
        n, dn = amplitude
        self.beta, self.variance = coefficients.beta, n**2
        self.speed = n * (n * coefficients.dbeta - dn * coefficients.beta)  # β η: finite at both ends

    @property
    def eta(self) -> Tensor:
        """η = g²/2 of the memoryless volatility, infinite where β = 0 and the start is noise."""
        return self.speed / self.beta

    @property
    def unit(self) -> Tensor:
        """β/(n² + β²), which is ∇ log h per unit of ∇r where Cov(x1) = I: what a network's output of order 1 scales."""
        return self.beta / (self.variance + self.beta**2)

    @property
    def unit_velocity(self) -> Tensor:
        """η β/(n² + β²), without the division by β."""
        return self.speed / (self.variance + self.beta**2)

    @property
    def end(self) -> Tensor:
        """ΔE[x1 | x] per Δv: n²/(β η)."""
        return self.variance / self.speed

    @property
    def spread(self) -> Tensor:
        """n/√(n² + β²): the deviation of x1 given x_t where Cov(x1) = I."""
        return (self.variance / (self.variance + self.beta**2)).sqrt()
