"""The field of one path evaluated on another path, by a change of time and scale."""

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
    """The flow of a trained field along another path without bridge noise, with the same pairs of end points.

    With α̃, β̃ of the base's path, τ(t) solves β̃(τ)/α̃(τ) = β(t)/α(t), and x̃ = c x with c = α̃(τ)/α(t) = β̃(τ)/β(t) is
    the point of the base's path with the same pair. So E[x0 | x_t] and E[x1 | x_t] are those of the base at (x̃, τ), and

        v = α̇ E[x0 | x_t = x] + β̇ E[x1 | x_t = x].

    Where the base has a score, so has this field. The end points of the ODE are those of the base, up to the error of
    the solver and to ratios β/α that the base's path does not reach, where τ is its nearest time.

    Args:
        base: The trained field.
        path: The path along which it is evaluated.

    Raises:
        FlowportError: For a bridge on either side, and for a path whose β/α decreases anywhere.

    References:
        Kingma et al. 2021, "Variational diffusion models", arXiv:2107.00630.
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364.
        Lipman et al. 2024, "Flow matching guide and code", arXiv:2412.06264.
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
        low, high = clamped(self.base.path.clamp(torch.tensor([0.0, 1.0], dtype=t.dtype)), MARGIN, 1 - MARGIN).tolist()
        tau = bisection(lambda s: _angle(self.base.path, s), _angle(self.path, t), low, high).to(t)
        old, new = self.base.path.coefficients(tau), self.path.coefficients(t)
        # c from both weights, which do not vanish together: where τ is exact it equals α̃/α and β̃/β.
        c = torch.hypot(old.alpha, old.beta) / torch.hypot(new.alpha, new.beta)
        source, target, _ = self.base.endpoints(scaled(c, x), tau, condition)
        return velocity_of(source, target, None, new)


def _angle(path: Path, t: Tensor) -> Tensor:
    """The angle arctan(β/α) in [0, π/2], in float64: increasing in β/α and finite at both ends."""
    t = t[:1].double().expand(t.shape) if t.stride(0) == 0 else t.double()
    return torch.atan2(path.beta(t), path.alpha(t))
