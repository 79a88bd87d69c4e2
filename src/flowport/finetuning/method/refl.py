"""Reward feedback learning (ReFL): the reward of the predicted end point at late times."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import Count, FlowportError, Fraction, Positive
from flowport.field.base import Field
from flowport.finetuning.method.base import (
    FineTuningMethod,
    Footprint,
    Rollout,
    finite,
    logged_scalars,
    scaled_reward,
    starts,
)
from flowport.finetuning.renoising import (
    control_energy,
    flow_matching_target,
    regression_error,
    renoised,
    reward_surrogate,
    simulate,
    stratified_times,
)
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.tensors import to_device
from flowport.types import Condition, Pair


class ReFL(FineTuningMethod):
    """Reward feedback learning: the reward of the end point predicted at a late time, plus flow matching of the data.

    The loss is, with x_t a state of the current flow at a random step t ≥ ``late`` of the grid and the second term at
    uniform times on the batch's own pairs,

        −weight · λ r(E[x1 | x_t]) + |D − (x1 − E_base[x1 | x_t])|²/(d spread²),    D = ΔE[x1 | x_t],

    d the number of coordinates and spread² = n²/(n² + β²). For a linear reward cᵀx and D constant in x the minimum at
    late times is D = weight λ c d spread²/(2 (1 − late)), whatever the covariance S of the data, while the tilt has
    D = n² S (β² S + n²)⁻¹ λ c, at all times: the weight is not a temperature. The original method also applies a
    threshold to r, which is left out here.

    A rollout records times (k,), states (k, n, *D), target points of the batch (n, *D), strength ().

    Args:
        grid: Times of the steps of the simulated flow; None: 20 uniform steps.
        late: Earliest time at which the reward is evaluated.
        weight: Weight of the reward against flow matching.
        steps_per_rollout: Optimiser steps per collection.

    Raises:
        FlowportError: For late outside [0, 1), weight ≤ 0 or steps_per_rollout < 1.

    References:
        Xu et al. 2023, "ImageReward: learning and evaluating human preferences for text-to-image generation",
            arXiv:2304.05977.
    """

    target = "none: a balance of the reward at late times and the data's law, which is not its tilt"

    def __init__(
        self, grid: Grid | None = None, late: Fraction = 0.75, weight: Positive = 1.0, steps_per_rollout: Count = 1
    ) -> None:
        if late == 1:
            raise FlowportError("method.late=1 is too large: no state of the flow lies after it")
        self.grid, self.late, self.weight, self.steps_per_rollout = (
            grid or UniformGrid(20),
            late,
            weight,
            steps_per_rollout,
        )

    def accept(self, base: Field, reward: Reward) -> None:
        super().accept(base, reward)
        self._reward = reward

    def footprint(self, starts: int, sees_source: bool) -> Footprint:
        return Footprint(starts, 2 * starts, 2 * self.grid.steps, self.grid.steps)

    def differentiated(self, field: TiltedField, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return field.endpoints(x, t, condition)[1]

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        """Collect late states of the current flow, and the batch's own target points.

        Args:
            field: The tuned field.
            reward: The reward r.
            strength: λ.
            pair: A re-paired batch.
            generator: Random generator, on the device of the batch.

        Returns:
            The rollout, and scalars to log by name.

        Raises:
            FlowportError: Where no step of the grid is at or after ``late``, or results are not finite.
        """
        start, condition = starts(field, pair, generator)
        states = simulate(field, start, condition, self.grid, generator, all_states=True)
        end = finite(states[-1], "a result", strength)
        value = scaled_reward(reward, end, condition, strength)
        times = self.grid.times(field.path)[:-1]
        late = int((times >= self.late - 1e-9).sum())  # the last steps, since times increase
        if late == 0:
            raise FlowportError(
                f"method.late={self.late} lies after the last step of the grid: lower it, or raise method.grid.steps"
            )
        facts = logged_scalars(value, control_energy(field, pair.source.x, end, condition, generator), end)
        record = {
            "times": to_device(times[-late:].to(end.dtype), end.device),
            "states": states[-1 - late : -1].clone(),
            "target": pair.target.x,
            "strength": end.new_full((), strength),
        }
        return Rollout(pair.source.x, end, value, torch.zeros_like(value), condition.label, record), facts

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout = replay[-1]
        times, target, strength = (rollout[name] for name in ("times", "target", "strength"))
        condition, n = rollout.condition(field.conditioning.sees_source), len(target)
        step = torch.randint(len(times), (n,), generator=generator, device=times.device)
        x = rollout.at("states", step, torch.arange(n, device=times.device))
        late_reward = reward_surrogate(self._reward, field.endpoints(x, times[step], condition)[1], condition)
        t = stratified_times(n, field, target, generator)
        t = t[torch.randperm(n, generator=generator, device=t.device)]
        sample = renoised(field, rollout.start, target, t, generator)
        flow_matching = regression_error(field, sample.x, t, condition, flow_matching_target(field, sample, condition))
        return Loss(flow_matching - self.weight * strength * late_reward)
