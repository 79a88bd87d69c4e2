"""Shortcut models: a field that also learns its own mean velocity over long steps, without a teacher."""

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from flowport.errors import FlowportError, Range
from flowport.field.base import Field
from flowport.objective.base import Loss, Objective
from flowport.objective.time_sampler import AdaptiveTimeSampler, TimeSampler
from flowport.prediction.base import Prediction
from flowport.prediction.velocity import VelocityPrediction
from flowport.tensors import over
from flowport.types import Condition, ConditionShape, Pair


class ShortcutObjective(Objective):
    """Self-consistent regression of the mean velocity ū(x, t, d) = (X_{t,t+d}(x) − x)/d over steps of length d.

    X is the flow of the ODE and ū(x, t, 0) its velocity, for any source, target and coupling. A part 1 − ``share`` of
    every batch is flow matching at d = 0. The rest regresses a step d = 2^−k, k uniform in 0, …, halvings − 1, from t
    uniform in 0, d, 2d, …, 1 − d, on two steps of half its length, without a gradient through them:

        ū(x, t, d) ← ½ [ū(x, t, d/2) + ū(x + d/2 ū(x, t, d/2), t + d/2, d/2)].

    The exact ū fulfils this because X_{t,t+d} = X_{t+d/2,t+d} ∘ X_{t,t+d/2}. The two halves of the shortest step are
    Euler steps, so a field that fits every regression reproduces Euler's method with 2^halvings steps from 0 to 1.
    ``solver=shortcut`` takes steps with ū; every other solver evaluates the velocity.

    Args:
        time_sampler: Law of t in the flow-matching part of the batch.
        share: Part of the batch that regresses steps with d > 0, in (0, 1).
        halvings: Number of step lengths; the shortest is 2^(1 − halvings).

    Raises:
        FlowportError: For a share outside (0, 1), fewer than one halving, and a time sampler that learns its density.

    References:
        Frans et al. 2024, "One step diffusion via shortcut models", arXiv:2410.12557.
    """

    def __init__(
        self, time_sampler: TimeSampler, share: float = 0.25, halvings: Annotated[int, Range(most=20)] = 5
    ) -> None:
        if not 0 < share < 1 or halvings < 1:
            raise FlowportError(
                f"objective=shortcut needs a share in (0, 1) and halvings ≥ 1, not {share} and {halvings}"
            )
        if isinstance(time_sampler, AdaptiveTimeSampler):
            raise FlowportError(
                "objective=shortcut does not divide its losses by a density of times, which time_sampler=adaptive "
                "needs: use another time_sampler, or objective=flow_matching"
            )
        self.time_sampler, self.share, self.halvings = time_sampler, share, halvings

    def condition_shape(self, shape: ConditionShape, prediction: Prediction) -> ConditionShape:
        """What the network must accept: the condition and a step length.

        Args:
            shape: What the conditioning requires.
            prediction: What the output of the network means.

        Raises:
            FlowportError: For a prediction other than the velocity.
        """
        if not isinstance(prediction, VelocityPrediction):
            raise FlowportError("objective=shortcut learns mean velocities: use prediction=velocity with it")
        return replace(shape, step=True)

    def target(self, field: Field, x: Tensor, t: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """The mean velocity over two steps of half the length, (B, *D), without a gradient.

        Args:
            field: The field that is trained.
            x: Points, (B, *D).
            t: Times, (B,).
            step: Step lengths d > 0, (B,); the halves of the shortest one are evaluated at d = 0.
            condition: The condition of the rows.
        """
        half = step / 2
        length = torch.where(step > 0.5 ** (self.halvings - 1), half, 0)
        with torch.no_grad():
            first = field.average_velocity(x, t, length, condition)
            second = field.average_velocity(x + over(half, x) * first, t + half, length, condition)
        return (first + second) / 2

    def loss(self, field: Field, pair: Pair, generator: torch.Generator) -> Loss:
        x0, path = pair.source.x, field.path
        n, n_long = len(x0), round(self.share * len(x0))
        step = 0.5 ** torch.randint(self.halvings, (n_long,), generator=generator, device=x0.device)
        begin = step * (torch.rand(n_long, generator=generator, device=x0.device) / step).floor()
        t = path.clamp(torch.cat([begin, self.time_sampler(n - n_long, generator)]).to(x0.dtype))
        step = step.to(x0.dtype)
        z = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype) if path.bridge else None
        sample, condition = path.sample(pair, t, z), field.conditioning.training(pair, generator)
        mean = self.target(field, sample.x[:n_long], t[:n_long], step, condition[slice(n_long)])
        target = torch.cat([mean.to(x0.dtype), sample.velocity[n_long:]])
        lengths = torch.cat([step, torch.zeros_like(t[n_long:])])
        output = field.average_velocity(sample.x, t, lengths, condition)
        return Loss(mse_loss(output.float(), target.float(), reduction="none"), mask=pair.mask)
