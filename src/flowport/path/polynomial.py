"""Paths with polynomial or user-defined coefficients.

References:
    Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        arXiv:2303.08797.
"""

from collections.abc import Callable

from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Path


class PolynomialPath(Path):
    """Polynomial path α = 1 − t^source_power, β = t^target_power.

    Args:
        source_power: Exponent of α, ≥ 1: smaller ones have an infinite slope at t = 0.
        target_power: Exponent of β, ≥ 1.

    Raises:
        FlowportError: When an exponent is below 1.
    """

    def __init__(self, source_power: float = 2.0, target_power: float = 2.0) -> None:
        if source_power < 1 or target_power < 1:
            raise FlowportError(f"path=polynomial needs powers of at least 1, not {source_power} and {target_power}")
        self.source_power, self.target_power = source_power, target_power

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.source_power

    def beta(self, t: Tensor) -> Tensor:
        return t**self.target_power


class FunctionsPath(Path):
    """Path with user-defined coefficients α, β and, for a bridge, γ.

    Example: ``FunctionsPath(lambda t: 1 - t, lambda t: t, lambda t: 0.5 * t * (1 - t))``. The functions act on each
    element alone and must be differentiable by autograd. Since they may read numbers from the device, a training with
    them is not one CUDA graph.

    Args:
        alpha: α as a function of t, (B,) → (B,).
        beta: β as a function of t, (B,) → (B,).
        gamma: γ as a function of t, (B,) → (B,); None for a path without noise.
        interval: Closed part of [0, 1] on which all coefficients and derivatives are finite.

    Raises:
        FlowportError: For a coefficient that is no function.
    """

    capturable = False

    def __init__(
        self,
        alpha: Callable[[Tensor], Tensor],
        beta: Callable[[Tensor], Tensor],
        gamma: Callable[[Tensor], Tensor] | None = None,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not (callable(alpha) and callable(beta) and (gamma is None or callable(gamma))):
            raise FlowportError("a path of functions needs alpha(t), beta(t) and perhaps gamma(t) as functions")
        self._alpha, self._beta, self._gamma = alpha, beta, gamma
        self.bridge = gamma is not None
        self.interval = (interval[0], interval[1])

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha(t)

    def beta(self, t: Tensor) -> Tensor:
        return self._beta(t)

    def gamma(self, t: Tensor) -> Tensor:
        return super().gamma(t) if self._gamma is None else self._gamma(t)
