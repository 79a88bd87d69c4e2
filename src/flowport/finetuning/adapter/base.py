"""Adapters: what fine-tuning learns beside a frozen velocity field."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from flowport.errors import FlowportError, option
from flowport.field.tilt_gains import TiltGains
from flowport.tensors import scaled
from flowport.types import Condition


class Adapter(nn.Module, ABC):
    """What fine-tuning learns, in one of two equal forms: Δv of the velocity, or G, which estimates ∇ log h.

    h_t(x) = E[e^{r(X1)} | X_t = x] under the base process. With n the weight of the path's noise (α where the source is
    the noise, γ on a bridge that sees x0) and the memoryless volatility g² = 2η, η = n(nβ̇ − ṅβ)/β (Domingo-Enrich et
    al. 2024; given x0 on a bridge), the tilted flow has

        Δv = η G,    Δs = G,    ΔE[x1 | x] = (n²/β) G.
    """

    needs_base: ClassVar[bool] = True
    """Whether the base's velocity must be handed in."""
    valued: ClassVar[bool] = False
    """Whether G is the gradient of ``log_value``."""

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: "TiltGains") -> Tensor:
        """Δv (B, *D) at x, where the base's velocity is ``base``."""

    def tilt(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: "TiltGains") -> Tensor:
        """G (B, *D). gains: of a time that may be later than t, so that the start, where β = 0, can learn too."""
        return scaled(1 / gains.eta, self.velocity(x, t, condition, base, gains))

    def log_value(self, x: Tensor, t: Tensor, condition: Condition, gains: "TiltGains") -> Tensor:
        """log h_t(x)/h_0, (B,), of which G is the gradient. Raises FlowportError for an adapter that is no gradient."""
        raise FlowportError(f"{option('adapter', self)} has no value to learn as a number: use adapter=value")
