"""Reward-weighted flow matching, and flow matching on the best of n results."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import Count, FlowportError, Positive, SampleSize
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
from flowport.finetuning.path_weights import best_of_divergence, effective, law_groups, normalised
from flowport.finetuning.renoising import (
    control_energy,
    flow_matching_target,
    regression_error,
    renoised,
    simulate,
    stratified_times,
)
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.types import Pair


class RewardWeighted(FineTuningMethod):
    """Flow matching on re-noised results of the current flow, drawn by weights e^{λr/temperature} or best of n.

    The first is reward-weighted regression, the second RAFT. One collection from the base gives p e^{λr/temperature}/Z
    exactly, but every further one applies the weights again: the law after k collections is ∝ p e^{k λr/temperature}.
    The best of n results is log n − (n − 1)/n nats away from the law of the results, whatever λ
    (``path_weights.best_of_divergence``). Exactly one of ``temperature`` and ``best_of`` is given.

    Args:
        grid: Times of the steps of the simulated flow; None: 40 uniform steps.
        temperature: Temperature of the weights e^{λr/temperature}; None with ``best_of``.
        best_of: Number n of results of which the best is learnt from; None with ``temperature``.
        batch: Points per optimiser step.
        steps_per_rollout: Optimiser steps per collection.
        paths: Results per start on a bridge whose field sees it, within which weights are normalised.

    Raises:
        FlowportError: For both or neither of temperature and best_of, or for a value out of range.

    References:
        Peters and Schaal 2007, "Reinforcement learning by reward-weighted regression for operational space control",
            doi:10.1145/1273496.1273590.
        Fan et al. 2025, "Online reward-weighted fine-tuning of flow matching with Wasserstein regularization",
            arXiv:2502.06061.
        Dong et al. 2023, "RAFT: reward ranked finetuning for generative foundation model alignment", arXiv:2304.06767.
        Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy", arXiv:2401.01879.
    """

    needs_gradient = False

    def __init__(
        self,
        grid: Grid | None = None,
        temperature: Positive | None = 1.0,
        best_of: SampleSize | None = None,
        batch: Count = 512,
        steps_per_rollout: Count = 200,
        paths: SampleSize = 16,
    ) -> None:
        if (temperature is None) == (best_of is None):
            raise FlowportError("method=reward_weighted needs one of temperature and best_of: set the other to null")
        self.grid, self.temperature, self.best_of = grid or UniformGrid(40), temperature, best_of
        self.batch, self.steps_per_rollout, self.paths = batch, steps_per_rollout, paths
        self.target = (
            "p e^{k λ r/temperature} after k collections: no law to stay at"
            if best_of is None
            else f"the best of {best_of} results after each collection: {best_of_divergence(best_of):.2g} nats each"
        )

    def footprint(self, starts: int, sees_source: bool) -> Footprint:
        return Footprint(starts * (self.best_of or (self.paths if sees_source else 1)), self.batch)

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        each = self.best_of or (self.paths if field.conditioning.sees_source else 1)
        start, condition = starts(field, pair, generator, each)
        if not field.conditioning.sees_source:  # from equal noise the ODE would reach n equal results
            noise = torch.randn(start.shape, generator=generator, device=start.device, dtype=start.dtype)
            start = field.path.start(noise, noise)
        end = finite(simulate(field, start, condition, self.grid, generator)[-1], "a result", strength)
        value = scaled_reward(reward, end, condition, strength)
        source = origins(start, condition)
        rollout = Rollout(source, end, value, torch.zeros_like(value), condition.label)
        facts = logged_scalars(value, control_energy(field, source, end, condition, generator), end)
        if self.best_of is not None:
            best = value.view(-1, each).argmax(1) + each * torch.arange(len(pair), device=end.device)
            rollout = Rollout.of({name: values[best] for name, values in rollout.tensors().items()})
        w = self.weights(field, rollout)
        facts["scaled_tilted_reward"] = (w * rollout.reward).sum()
        facts["effective_share"] = effective(w, law_groups(rollout.label))
        return rollout, facts

    def weights(self, field: TiltedField, rollout: Rollout) -> Tensor:
        """Weights of the results, of sum 1, (n,).

        Args:
            field: The tuned field, of which the conditioning is read.
            rollout: The collection.
        """
        if self.temperature is None:
            return torch.full_like(rollout.reward, 1 / len(rollout.reward))
        starts = len(rollout.end) // self.paths if field.conditioning.sees_source else None
        return normalised(rollout.reward / self.temperature, law_groups(rollout.label, starts))

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout = replay[-1]
        draw = torch.multinomial(self.weights(field, rollout), self.batch, replacement=True, generator=generator)
        t = stratified_times(self.batch, field, rollout.end, generator)
        sample = renoised(field, rollout.start[draw], rollout.end[draw], t, generator)
        condition = rollout.condition(field.conditioning.sees_source)[draw]
        return Loss(regression_error(field, sample.x, t, condition, flow_matching_target(field, sample, condition)))
