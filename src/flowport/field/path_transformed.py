"""A field trained on one path, read on another: time change and scaling."""

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.path.base import Path
from flowport.prediction import VelocityPrediction
from flowport.prediction.base import MARGIN, velocity_of
from flowport.tensors import bisection, clamped, scaled
from flowport.types import Condition


class PathTransformedField(Field):
    """The flow of ``base`` along another path without noise of its own, with the same ends for every pair.

    With α̃, β̃ the base's path, τ(t) solves β̃(τ)/α̃(τ) = β(t)/α(t), and x̃ = c x, c = α̃(τ)/α(t) = β̃(τ)/β(t), is the
    point of the base's path with the same pair. So E[x0 | x_t] and E[x1 | x_t] are the base's at (x̃, τ), and
    v = α̇ E[x0 | x] + β̇ E[x1 | x] (Karras et al. 2022; Kingma et al. 2021; Lipman et al. 2024, section 4.6). A score
    stays a score. The ODE's samples stay what they were, up to the error of the solver and to the part of the ratio
    β/α that the base's path does not reach, where τ stays at its nearest time.

    Raises FlowportError for a bridge on either side, and for a path whose β/α does not increase.
    """

    def __init__(self, base: Field, path: Path) -> None:
        if base.path.bridge or path.bridge:
            raise FlowportError(
                "the path of a trained run can be changed only between paths without noise of their own: this needs "
                "γ = 0 on both, and a bridge has γ > 0"
            )
        t = torch.linspace(MARGIN, 1 - MARGIN, 1001, dtype=torch.float64)
        if not all(bool((_angle(p, p.clamp(t)).diff() >= 0).all()) for p in (base.path, path)):
            raise FlowportError(
                "the path of a trained run can be changed only between paths whose β/α increases with time"
            )
        super().__init__(path, VelocityPrediction(), base.conditioning, base.capabilities)
        self.base = base

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        low, high = clamped(self.base.path.clamp(t.new_tensor([0.0, 1.0])), MARGIN, 1 - MARGIN).tolist()
        tau = bisection(lambda s: _angle(self.base.path, s), _angle(self.path, t), low, high).to(t)
        then, now = self.base.path.coefficients(tau), self.path.coefficients(t)
        # Of both weights together, which vanish nowhere: where τ is exact this is α̃/α and β̃/β.
        c = torch.hypot(then.alpha, then.beta) / torch.hypot(now.alpha, now.beta)
        source, target, _ = self.base.endpoints(scaled(c, x), tau, condition)
        return velocity_of(source, target, None, now)


def _angle(path: Path, t: Tensor) -> Tensor:
    """arctan(β/α) in [0, π/2], in float64: as good as β/α, and finite at both ends."""
    t = t[:1].double().expand(t.shape) if t.stride(0) == 0 else t.double()
    return torch.atan2(path.beta(t), path.alpha(t))
