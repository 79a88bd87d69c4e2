"""Paths by powers of time, and paths by the user's own functions."""

from collections.abc import Callable

from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Path


class PolynomialPath(Path):
    """α = 1 − t^source_power,  β = t^target_power. Powers below 1 have an infinite slope at t = 0 and are refused."""

    def __init__(self, source_power: float = 2.0, target_power: float = 2.0) -> None:
        if source_power < 1 or target_power < 1:
            raise FlowportError(f"path=polynomial needs powers of at least 1, not {source_power} and {target_power}")
        self.source_power, self.target_power = source_power, target_power

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.source_power

    def beta(self, t: Tensor) -> Tensor:
        return t**self.target_power


class FunctionsPath(Path):
    """A path by three callables of t (B,): α, β and, for a bridge, γ. They must be differentiable by autograd.

    ``Functions(lambda t: 1 - t, lambda t: t, lambda t: 0.5 * t * (1 - t))``; ``interval`` is where all are finite.
    """

    def __init__(
        self,
        alpha: Callable[[Tensor], Tensor],
        beta: Callable[[Tensor], Tensor],
        gamma: Callable[[Tensor], Tensor] | None = None,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._alpha, self._beta, self._gamma = alpha, beta, gamma
        self.bridge = gamma is not None
        self.interval = (interval[0], interval[1])

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha(t)

    def beta(self, t: Tensor) -> Tensor:
        return self._beta(t)

    def gamma(self, t: Tensor) -> Tensor:
        return super().gamma(t) if self._gamma is None else self._gamma(t)
