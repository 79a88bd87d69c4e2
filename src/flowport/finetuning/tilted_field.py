"""The tilted field: a frozen base field plus a trained adapter.

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
"""

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
    """Velocity field v + Δv of a fine-tuned flow: a frozen base v and the change Δv = η G of an adapter.

    G ≈ ∇ log h_t is the control of the base's memoryless SDE, and η half its squared volatility (``Adapter``). The
    base's parameters require no gradient, and the base stays in evaluation mode when this module is set to training.

    Args:
        base: The trained field; it is frozen in place.
        adapter: The trained part.

    Raises:
        FlowportError: For a base without a score, or for which reward fine-tuning has no guarantee.
    """

    def __init__(self, base: Field, adapter: Adapter) -> None:
        base.capabilities.role.require_tilt()
        base.capabilities.require_score("reward fine-tuning")
        super().__init__(base.path, VelocityPrediction(), base.conditioning, base.capabilities)
        self.base, self.adapter = base.requires_grad_(False).eval(), adapter

    def train(self, mode: bool = True) -> "TiltedField":
        """Set the mode of the adapter; the base stays in evaluation mode.

        Args:
            mode: Whether the adapter is set to training mode.
        """
        super().train(mode)
        self.base.eval()
        return self

    def gains(self, t: Tensor) -> TiltGains:
        """Weights of the tilt at t, with t moved inside (0, 1), where they are finite.

        Args:
            t: Times, (B,).
        """
        c = self.path.coefficients(clamped(self.path.clamp(t), MARGIN, 1 - MARGIN))
        return TiltGains(c, self.capabilities.role.amplitude(c))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Velocity v(x, t) + Δv(x, t), (B, *D).

        Args:
            x: Points, (B, *D).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.
        """
        base = self.base.velocity(x, t, condition)
        return base + self.adapter.velocity(x, t, condition, base, self.gains(t))

    def tilt(
        self, x: Tensor, t: Tensor, condition: Condition, floor: float = 0.0, base: Tensor | None = None
    ) -> Tensor:
        """Control G(x, t) ≈ ∇ log h_t(x), (B, *D).

        Args:
            x: Points, (B, *D).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.
            floor: Earliest time at which the weights are evaluated: those of max(t, floor) are used.
            base: The base's velocity at (x, t) if already computed, (B, *D).
        """
        return self.adapter.tilt(
            x, t, condition, self.base_velocity(x, t, condition, base), self.gains(t.clamp_min(floor))
        )

    def log_value(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Log value log h_t(x)/h_0, (B,), of which G is the gradient in x.

        Args:
            x: Points, (B, *D).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.

        Raises:
            FlowportError: For an adapter that is not the gradient of a value (``has_log_value``).
        """
        return self.adapter.log_value(x, t, condition, self.gains(t))

    def shift(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor | None = None) -> Tensor:
        """Change of the velocity Δv(x, t) = η G(x, t), (B, *D).

        Args:
            x: Points, (B, *D).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.
            base: The base's velocity at (x, t) if already computed, (B, *D).
        """
        return self.adapter.velocity(x, t, condition, self.base_velocity(x, t, condition, base), self.gains(t))

    def base_velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor | None) -> Tensor:
        """Base velocity at (x, t) where the adapter needs it, else x as an unused placeholder, (B, *D).

        Args:
            x: Points, (B, *D).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.
            base: The base's velocity at (x, t) if already computed, (B, *D), or None.
        """
        if base is not None or not self.adapter.needs_base:
            return x if base is None else base
        with torch.set_grad_enabled(x.requires_grad):
            return self.base.velocity(x, t, condition)
