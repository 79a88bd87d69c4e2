"""The tilted field: a frozen base field plus an adapter that fine-tuning learns."""

import torch
from torch import Tensor

from flowport.field.base import Field
from flowport.field.tilt_gains import TiltGains
from flowport.finetuning.adapter.base import Adapter
from flowport.prediction import VelocityPrediction
from flowport.prediction.base import MARGIN
from flowport.tensors import clamped
from flowport.types import Condition


class TiltedField(Field):
    """base + adapter. The base is frozen and in evaluation mode whatever happens to this module.

    Raises FlowportError where the base has no score, so that no tilt is defined.
    """

    def __init__(self, base: Field, adapter: Adapter) -> None:
        base.capabilities.role.require_tilt()
        base.capabilities.require_score("reward fine-tuning")
        super().__init__(base.path, VelocityPrediction(), base.conditioning, base.capabilities)
        self.base, self.adapter = base.requires_grad_(False).eval(), adapter

    def train(self, mode: bool = True) -> "TiltedField":
        super().train(mode)
        self.base.eval()
        return self

    def gains(self, t: Tensor) -> TiltGains:
        """The weights at t, moved inside (0, 1)."""
        c = self.path.coefficients(clamped(self.path.clamp(t), MARGIN, 1 - MARGIN))
        return TiltGains(c, self.capabilities.role.amplitude(c))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        base = self.base.velocity(x, t, condition)
        return base + self.adapter.velocity(x, t, condition, base, self.gains(t))

    def tilt(
        self, x: Tensor, t: Tensor, condition: Condition, floor: float = 0.0, base: Tensor | None = None
    ) -> Tensor:
        """G(x, t) ≈ ∇ log h_t(x), (B, *D); weights are taken at max(t, floor). base: the base's velocity, if known."""
        return self.adapter.tilt(x, t, condition, self.known(x, t, condition, base), self.gains(t.clamp_min(floor)))

    def log_value(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """log h_t(x)/h_0, (B,). Raises FlowportError where the adapter is no gradient."""
        return self.adapter.log_value(x, t, condition, self.gains(t))

    def shift(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor | None = None) -> Tensor:
        """Δv(x, t), (B, *D)."""
        return self.adapter.velocity(x, t, condition, self.known(x, t, condition, base), self.gains(t))

    def known(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor | None) -> Tensor:
        """The base's velocity where the adapter needs it; x otherwise, which nobody reads."""
        if base is not None or not self.adapter.needs_base:
            return x if base is None else base
        with torch.set_grad_enabled(x.requires_grad):
            return self.base.velocity(x, t, condition)
