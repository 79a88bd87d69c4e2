"""A frozen field with a change that fine-tuning learns."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from flowport.broadcast import clamped, over
from flowport.errors import Refusal
from flowport.field.base import Field
from flowport.path.base import Coefficients
from flowport.prediction import Velocity
from flowport.prediction.base import MARGIN
from flowport.shapes import Condition


class Change(nn.Module, ABC):
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
    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: "Gains") -> Tensor:
        """Δv (B, *D) at x, where the base's velocity is ``base``."""

    def tilt(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: "Gains") -> Tensor:
        """G (B, *D). gains: of a time that may be later than t, so that the start, where β = 0, can learn too."""
        return scaled(1 / gains.eta, self.velocity(x, t, condition, base, gains))

    def log_value(self, x: Tensor, t: Tensor, condition: Condition, gains: "Gains") -> Tensor:
        """log h_t(x)/h_0, (B,), of which G is the gradient. Raises Refusal for a change that is no gradient."""
        raise Refusal(f"change={type(self).__name__.lower()} has no value to learn as a number: use change=value")


class Gains:
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


class Tilted(Field):
    """base + change. The base is frozen and in evaluation mode whatever happens to this module.

    Raises Refusal where the base has no score, so that no tilt is defined.
    """

    def __init__(self, base: Field, change: Change) -> None:
        base.able.role.refuse_tilt()
        base.able.require_score("reward fine-tuning")
        super().__init__(base.path, Velocity(), base.conditioning, base.able)
        self.base, self.change = base.requires_grad_(False).eval(), change

    def train(self, mode: bool = True) -> "Tilted":
        super().train(mode)
        self.base.eval()
        return self

    def gains(self, t: Tensor) -> Gains:
        """The weights at t, moved inside (0, 1)."""
        c = self.path.coefficients(clamped(self.path.clamp(t), MARGIN, 1 - MARGIN))
        return Gains(c, self.able.role.amplitude(c))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        base = self.base.velocity(x, t, condition)
        return base + self.change.velocity(x, t, condition, base, self.gains(t))

    def tilt(
        self, x: Tensor, t: Tensor, condition: Condition, floor: float = 0.0, base: Tensor | None = None
    ) -> Tensor:
        """G(x, t) ≈ ∇ log h_t(x), (B, *D); weights are taken at max(t, floor). base: the base's velocity, if known."""
        return self.change.tilt(x, t, condition, self.known(x, t, condition, base), self.gains(t.clamp_min(floor)))

    def log_value(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """log h_t(x)/h_0, (B,). Raises Refusal where the change is no gradient."""
        return self.change.log_value(x, t, condition, self.gains(t))

    def shift(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor | None = None) -> Tensor:
        """Δv(x, t), (B, *D)."""
        return self.change.velocity(x, t, condition, self.known(x, t, condition, base), self.gains(t))

    def known(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor | None) -> Tensor:
        """The base's velocity where the change needs it; x otherwise, which nobody reads."""
        if base is not None or not self.change.needs_base:
            return x if base is None else base
        with torch.set_grad_enabled(x.requires_grad):
            return self.base.velocity(x, t, condition)


def scaled(weight: Tensor, x: Tensor) -> Tensor:
    """weight (B,) times x (B, *D), in the precision of x."""
    return over(weight.to(x.dtype), x) * x
