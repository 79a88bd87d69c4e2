"""Tilt matching: the strength of the reward is increased in small stages, each of which is a regression."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import Count, SampleSize
from flowport.finetuning.method.base import (
    FineTuningMethod,
    Footprint,
    Rollout,
    finite,
    logged_scalars,
    origins,
    scaled_reward,
    starts,
)
from flowport.finetuning.path_weights import centred, law_groups
from flowport.finetuning.renoising import control_energy, regression_error, renoised, simulate, stratified_times
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.tensors import scaled
from flowport.types import Pair


class TiltMatching(FineTuningMethod):
    """Tilt matching: Euler steps in a of ∂_a v_a = λ Cov_a(ẋ_t, r(x1) | x_t), which the flows of p e^{aλr}/Z_a satisfy.

    A stage replaces v_a, with a = 0 the base, by the regression

        v_{a+δ}(x_t) = E[v_a(x_t) + δ λ (r(x1) − r̄)(ẋ_t − v_a(x_t)) | x_t],    δ = 1/stages,

    with x1 a result of v_a and x_t its re-noised point. No gradient of the reward is needed. r̄ is the mean over the
    other results, of a told class over those of the same class, and on a bridge whose field sees x0 over those of the
    same start: there the same holds class by class and start by start, which is an extension of this package.

    Collection k moves a from k/stages to (k + 1)/stages, so the full strength is reached after ``stages`` collections,
    that is after stages · steps_per_rollout optimiser steps, which is how long a run should be. Further collections
    regress on the current flow. The error is O(1/stages), and 0 for a linear reward of a Gaussian.

    A rollout records times (k,), states and changes of velocity to regress on (k, n, *D), scale ().

    Args:
        grid: Times of the steps of the simulated flow; None: 40 uniform steps.
        stages: Number of stages.
        noisings: Times at which every result is re-noised.
        batch: Points per optimiser step.
        steps_per_rollout: Optimiser steps per stage, enough for the moving average to follow.
        paths: Results per start on a bridge whose field sees it.

    Raises:
        FlowportError: For paths < 2 or another count below 1.

    References:
        Potaptchik, Lee and Albergo 2025, "Tilt matching for scalable sampling and fine-tuning", arXiv:2512.21829.
    """

    target = "the tilt p e^{λr} as stages grow: marginal from noise, per start on a bridge that sees it"
    needs_gradient = False

    def __init__(
        self,
        grid: Grid | None = None,
        stages: Count = 10,
        noisings: Count = 32,
        batch: Count = 512,
        steps_per_rollout: Count = 300,
        paths: SampleSize = 16,
    ) -> None:
        self.grid, self.stages, self.noisings = grid or UniformGrid(40), stages, noisings
        self.batch, self.steps_per_rollout, self.paths, self.stage = batch, steps_per_rollout, paths, 0

    def begin(self, number: int) -> None:
        self.stage = number

    def footprint(self, starts: int, sees_source: bool) -> Footprint:
        return Footprint(starts * (self.paths if sees_source else 1), self.batch, 4 * self.noisings, 2 * self.noisings)

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        given = field.conditioning.sees_source
        start, condition = starts(field, pair, generator, self.paths if given else 1)
        end = finite(simulate(field, start, condition, self.grid, generator)[-1], "a result", strength)
        value = scaled_reward(reward, end, condition, strength)
        source = origins(start, condition)
        reached = end.new_full((), min(self.stage + 1, self.stages) / self.stages)
        step = 1 / self.stages if self.stage < self.stages else 0.0
        push = step * centred(value, law_groups(condition.label, len(pair) if given else None))
        times, states, changes = stratified_times(self.noisings, field, end, generator), [], []
        for time in times:
            t = time.expand(len(end))
            sample = renoised(field, source, end, t, generator)
            with torch.no_grad():
                velocity = field.velocity(sample.x, t, condition)
                moved = field.shift(sample.x, t, condition)
            states.append(sample.x)
            changes.append(moved + scaled(push, sample.velocity - velocity))
        energy = control_energy(field, source, end, condition, generator)
        facts = logged_scalars(value, energy, end, strength_share=reached)
        record = {"times": times, "states": torch.stack(states), "changes": torch.stack(changes), "scale": reached}
        return Rollout(source, end, value, torch.zeros_like(value), condition.label, record), facts

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout = replay[-1]
        times = rollout["times"]
        step, row = (
            torch.randint(size, (self.batch,), generator=generator, device=times.device)
            for size in (len(times), len(rollout.end))
        )
        t, condition = times[step], rollout.condition(field.conditioning.sees_source)[row]
        x, change = rollout.at("states", step, row), rollout.at("changes", step, row)
        return Loss(regression_error(field, x, t, condition, scaled(field.gains(t).end, change)))
