"""Reward-weighted flow matching, and best-of-n."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import Refusal
from flowport.field.tilted import Tilted
from flowport.grid import Grid, Uniform
from flowport.objective.base import Loss
from flowport.objective.results import error_of, journey, matched, renoised, spaced, spent
from flowport.objective.tuning import Rollout, Tuning, facts_of, finite, origins, starts, worth
from flowport.objective.weights import best_of_divergence, effective, normalised
from flowport.reward.base import Reward
from flowport.shapes import Pair


class RewardWeighted(Tuning):
    """Flow matching on results of the current flow, drawn with w ∝ e^{λr/temperature}, or on the best of ``best_of``
    results (reward-weighted regression, Peters & Schaal 2007; RAFT, Dong et al. 2023), re-noised anew.

    One collection from the base gives p e^{λr/temperature} exactly, but every further one multiplies by it again: after
    k collections p e^{k λr/temperature}, the temperature temperature/k. The best of n is log n − (n − 1)/n away from
    the law it was chosen from (``weights.best_of_divergence``), whatever λ.

    Exactly one of temperature and best_of; on a bridge weights and choices are those among ``paths`` results (or n) of
    one start. batch: points of an optimiser step; rounds: such steps for every collection.
    """

    needs_gradient = False

    def __init__(self, grid: Grid | None = None, temperature: float | None = 1.0, best_of: int | None = None,
                 batch: int = 512, rounds: int = 200, paths: int = 16) -> None:  # fmt: skip
        if (temperature is None) == (best_of is None):
            raise Refusal("objective=reward_weighted needs one of temperature and best_of: set the other to null")
        if (temperature is not None and temperature <= 0) or min(batch, rounds) < 1 or paths < 2 or best_of in (0, 1):
            raise Refusal(f"reward weights need temperature > 0, best_of, paths ≥ 2 and batch, rounds ≥ 1, not "
                          f"{temperature}, {best_of}, {paths}, {batch}, {rounds}")  # fmt: skip
        self.grid, self.temperature, self.best_of = grid or Uniform(40), temperature, best_of
        self.batch, self.rounds, self.paths = batch, rounds, paths
        self.target = (
            "p e^{k λ r/temperature} after k collections: no law to stay at" if best_of is None else
            f"the best of {best_of} results after each collection: {best_of_divergence(best_of):.2g} nats each"
        )  # fmt: skip

    def collect(self, field: Tilted, reward: Reward, strength: float, pair: Pair,
                generator: torch.Generator) -> tuple[Rollout, dict[str, Tensor]]:  # fmt: skip
        each = self.best_of or (self.paths if field.conditioning.sees_source else 1)
        start, condition = starts(field, pair, generator, each)
        if not field.conditioning.sees_source:  # from one noise an ODE would reach one result n times
            noise = torch.randn(start.shape, generator=generator, device=start.device, dtype=start.dtype)
            start = field.path.start(noise, noise)
        end = finite(journey(field, start, condition, self.grid, generator)[-1], "a result", strength)
        value = worth(reward, end, condition, strength)
        source = origins(start, condition)
        rollout = Rollout(source, end, value, torch.zeros_like(value), condition.label)
        facts = facts_of(value, spent(field, source, end, condition, generator), end)
        if self.best_of is not None:
            best = value.view(-1, each).argmax(1) + each * torch.arange(len(pair), device=end.device)
            rollout = Rollout(**{name: kept[best] for name, kept in rollout.tensors().items()})
        w = self.weights(field, rollout)
        facts["tilted_reward"], facts["effective"] = (w * rollout.reward).sum(), effective(w, 1)
        return rollout, facts

    def weights(self, field: Tilted, rollout: Rollout) -> Tensor:
        """(n,), of sum 1."""
        if self.temperature is None:
            return torch.full_like(rollout.reward, 1 / len(rollout.reward))
        groups = len(rollout.end) // self.paths if field.conditioning.sees_source else 1
        return normalised(rollout.reward / self.temperature, groups)

    def loss(self, field: Tilted, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout = replay[-1]
        draw = torch.multinomial(self.weights(field, rollout), self.batch, replacement=True, generator=generator)
        t = spaced(self.batch, field, rollout.end, generator)
        sample = renoised(field, rollout.start[draw], rollout.end[draw], t, generator)
        condition = rollout.condition(field.conditioning.sees_source)[draw]
        return Loss(error_of(field, sample.x, t, condition, matched(field, sample, condition)))
