"""Few steps without a teacher: a field that also learns its own mean velocity over long steps."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.objective.base import Loss, Objective
from flowport.objective.time_sampler import TimeSampler
from flowport.prediction.base import Prediction
from flowport.prediction.velocity import VelocityPrediction
from flowport.tensors import over
from flowport.types import Condition, ConditionShape, Pair


class ShortcutObjective(Objective):
    """Shortcut models (Frans et al. 2024): the mean velocity ū(x, t, d) = (X_{t,t+d}(x) − x)/d of the flow X over steps
    d, whose ū(x, t, 0) is the velocity, for any source, target and coupling.

    A share 1 − ``share`` of every batch is flow matching at d = 0. The rest regresses a step d = 2^−k, k uniform in
    0 … halvings − 1, from t uniform in 0, d, 2d, … 1 − d, on two steps of half its length,

        ū(x, t, d) ← ½ [ū(x, t, d/2) + ū(x + d/2 ū(x, t, d/2), t + d/2, d/2)],

    which the exact ū fulfils because X is a semigroup. The two halves of the shortest step are Euler steps, so what is
    learnt is Euler's method of 2^halvings steps. ``solver=shortcut`` takes such steps; every other solver reads the
    velocity. Raises FlowportError for a share outside (0, 1), fewer than 1 halving, and predictions other than the
    velocity.
    """

    def __init__(self, time_sampler: TimeSampler, share: float = 0.25, halvings: int = 5) -> None:
        if not 0 < share < 1 or halvings < 1:
            raise FlowportError(
                f"objective=shortcut needs a share in (0, 1) and halvings ≥ 1, not {share} and {halvings}"
            )
        self.time_sampler, self.share, self.halvings = time_sampler, share, halvings

    def shown(self, shape: ConditionShape, prediction: Prediction) -> ConditionShape:
        if not isinstance(prediction, VelocityPrediction):
            raise FlowportError("objective=shortcut learns mean velocities: use prediction=velocity with it")
        return replace(shape, step=True)

    def target(self, field: Field, x: Tensor, t: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """The mean velocity over two steps of half the length from x (B, *D) at t (B,), (B, *D)."""
        half = step / 2
        told = torch.where(step > 0.5 ** (self.halvings - 1), half, 0)
        with torch.no_grad():
            first = field.average_velocity(x, t, told, condition)
            second = field.average_velocity(x + over(half, x) * first, t + half, told, condition)
        return (first + second) / 2

    def loss(self, field: Field, pair: Pair, generator: torch.Generator) -> Loss:
        x0, path = pair.source.x, field.path
        n, few = len(x0), round(self.share * len(x0))
        step = 0.5 ** torch.randint(self.halvings, (few,), generator=generator, device=x0.device)
        begin = step * (torch.rand(few, generator=generator, device=x0.device) / step).floor()
        t = path.clamp(torch.cat([begin, self.time_sampler(n - few, generator)]).to(x0.dtype))
        step = step.to(x0.dtype)
        z = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype) if path.bridge else None
        sample, condition = path.sample(pair, t, z), field.conditioning.training(pair, generator)
        jumped = self.target(field, sample.x[:few], t[:few], step, condition[slice(few)])
        wanted = torch.cat([jumped.to(x0.dtype), sample.velocity[few:]])
        told = torch.cat([step, torch.zeros_like(t[few:])])
        output = field.average_velocity(sample.x, t, told, condition)
        return Loss(mse_loss(output.float(), wanted.float(), reduction="none"), mask=pair.mask)
