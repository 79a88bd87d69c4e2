"""Reward feedback learning."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import Refusal
from flowport.field.base import Field
from flowport.field.tilted import Tilted
from flowport.grid import Grid, Uniform
from flowport.objective.base import Loss
from flowport.objective.results import ascent, error_of, journey, matched, renoised, spaced, spent
from flowport.objective.tuning import Rollout, Tuning, facts_of, finite, starts
from flowport.reward.base import Reward
from flowport.shapes import Pair


class ReFL(Tuning):
    """−weight · λ r(E[x1 | x_t]) at states x_t of the current flow with a random late t, plus flow matching of the
    batch's own pairs (Xu et al. 2023, ImageReward, without its threshold on r).

    With D = ΔE[x1 | x_t] and flow matching's |D − …|²/spread², spread² = n²/(n² + β²), a linear reward cᵀx and D
    constant over x, the minimum at late times is D = weight λ c spread²/(2 (1 − late)), whatever the data's covariance
    S; the tilt has D = n² S (β² S + n²)⁻¹ λ c, at all times. So the weight is no temperature: it suits one spread of
    the data. The times are steps of ``grid``. rounds: optimiser steps for every collection.
    """

    target = "none: a balance of the reward at late times and the data's law, which is not its tilt"

    def __init__(self, grid: Grid | None = None, late: float = 0.75, weight: float = 1.0, rounds: int = 1) -> None:
        if not 0 <= late < 1 or weight <= 0 or rounds < 1:
            raise Refusal(f"objective=refl needs 0 ≤ late < 1, weight > 0 and rounds ≥ 1, not {late}, {weight}, "
                          f"{rounds}")  # fmt: skip
        self.grid, self.late, self.weight, self.rounds = grid or Uniform(20), late, weight, rounds

    def accept(self, base: Field, reward: Reward) -> None:
        super().accept(base, reward)
        self.judge = reward

    def collect(self, field: Tilted, reward: Reward, strength: float, pair: Pair,
                generator: torch.Generator) -> tuple[Rollout, dict[str, Tensor]]:  # fmt: skip
        start, condition = starts(field, pair, generator)
        states = journey(field, start, condition, self.grid, generator, keep=True)
        end = finite(states[-1], "a result", strength)
        value = strength * reward.value(end, condition)
        times = self.grid.times(field.path)[:-1]
        late = times >= self.late - 1e-9
        if not bool(late.any()):
            raise Refusal(f"objective.late={self.late} lies after the last step of the grid: lower it, or use more")
        facts = facts_of(value, spent(field, pair.source.x, end, condition, generator), end)
        rollout = Rollout(pair.source.x, end, value, torch.zeros_like(value), condition.label, times[late].to(end),
                          states=states[:-1][late.to(end.device)], goal=pair.target.x,
                          strength=end.new_tensor(strength))  # fmt: skip
        return rollout, facts

    def loss(self, field: Tilted, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout = replay[-1]
        states, times, goal, strength = rollout.states, rollout.times, rollout.goal, rollout.strength
        assert states is not None and times is not None and goal is not None and strength is not None
        condition, n = rollout.condition(field.conditioning.sees_source), len(goal)
        step = torch.randint(len(times), (n,), generator=generator, device=times.device)
        x = states[step, torch.arange(n, device=times.device)]
        risen = ascent(self.judge, field.endpoints(x, times[step], condition)[1], condition)
        t = spaced(n, field, goal, generator)
        t = t[torch.randperm(n, generator=generator, device=t.device)]
        sample = renoised(field, rollout.start, goal, t, generator)
        kept = error_of(field, sample.x, t, condition, matched(field, sample, condition))
        return Loss(kept - self.weight * strength * risen)
