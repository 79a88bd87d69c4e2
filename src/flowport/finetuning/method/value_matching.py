"""Value matching: regression of the log value function, whose gradient is the control."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.conditioning import SourceLabelConditioning, TargetLabelConditioning
from flowport.errors import Count, FlowportError, SampleSize, option
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
from flowport.finetuning.path_weights import effective, normalised
from flowport.finetuning.renoising import renoised, simulate, stratified_times
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.types import Condition, Pair


class ValueMatching(FineTuningMethod):
    """Poisson regression of the log value φ = log h_t/h_0 on the weights of the base's own re-noised results.

    With w = e^{λr(x1)}/E e^{λr}, start by start on a bridge whose field sees x0, the loss

        E[e^{φ(x_t)} − w φ(x_t)]

    is least at e^{φ(x_t)} = E[w | x_t] = h_t(x_t)/h_0, so that G = ∇φ = ∇ log h_t. log h is the value function of the
    control problem; for a reward that is a class log-probability it is a classifier of noisy points (Dhariwal and
    Nichol 2021). The regression target is a number, where other methods regress on a vector that is noisy between
    separated modes. The results are those of the base, so the method fails where e^{λr} gives weight to few of them.
    It needs adapter=value and no gradient of the reward. The Poisson loss is a construction of this package; Lu et al.
    2023 learn the same function by a contrastive loss.

    Args:
        grid: Times of the steps of the simulated base; None: 40 uniform steps.
        batch: Points per optimiser step.
        steps_per_rollout: Optimiser steps per collection.
        replay_size: Collections in the replay buffer, all of the base and with equal weight.
        paths: Results per start on a bridge whose field sees it, over which E e^{λr} is taken.

    Raises:
        FlowportError: For paths < 2 or another count below 1.

    References:
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233.
        Lu et al. 2023, "Contrastive energy prediction for exact energy-guided diffusion sampling in offline
            reinforcement learning", arXiv:2304.12824.
    """

    target = "the tilt p e^{λr}: marginal from noise, per start on a bridge that sees it"
    needs_gradient = False

    def __init__(
        self,
        grid: Grid | None = None,
        batch: Count = 512,
        steps_per_rollout: Count = 60,
        replay_size: Count = 100,
        paths: SampleSize = 16,
    ) -> None:
        self.grid, self.batch, self.steps_per_rollout, self.replay_size, self.paths = (
            grid or UniformGrid(40),
            batch,
            steps_per_rollout,
            replay_size,
            paths,
        )

    def accept_adapter(self, field: TiltedField) -> None:
        """Check that the adapter has a log value and the normaliser E e^{λr} is defined.

        Args:
            field: The tilted field with its adapter.

        Raises:
            FlowportError: For a field conditioned on labels, which has one normaliser per label, or an adapter without
                a log value.
        """
        if isinstance(field.conditioning, TargetLabelConditioning | SourceLabelConditioning):
            raise FlowportError(
                "method=value_matching learns one mean of e^{λr}, but a flow conditioned on labels has one "
                "for each: use method=path_weighted_adjoint or path_weighted"
            )
        if not field.adapter.has_log_value:
            raise FlowportError(
                f"method=value_matching learns a number, which {option('adapter', field.adapter)} has not: use "
                f"adapter=value"
            )

    def footprint(self, starts: int, sees_source: bool) -> Footprint:
        return Footprint(starts * (self.paths if sees_source else 1), self.batch)

    def differentiated(self, field: TiltedField, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return field.log_value(x, t, condition)

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        given = field.conditioning.sees_source
        start, condition = starts(field, pair, generator, self.paths if given else 1)
        end = finite(simulate(field.base, start, condition, self.grid, generator)[-1], "a result", strength)
        value = scaled_reward(reward, end, condition, strength)
        w = normalised(value, len(pair) if given else 1)
        source = origins(start, condition)
        facts = logged_scalars(
            value,
            torch.zeros_like(value),
            end,
            scaled_tilted_reward=(w * value).sum(),
            effective_share=effective(w, len(pair) if given else 1),
        )
        return Rollout(source, end, value, torch.zeros_like(value), condition.label), facts

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        given = field.conditioning.sees_source
        sources, ends, value = (torch.cat([getattr(r, n) for r in replay]) for n in ("start", "end", "reward"))
        w = len(value) * normalised(value, len(value) // self.paths if given else 1)
        draw = torch.randint(len(value), (self.batch,), generator=generator, device=value.device)
        labels = [r.label for r in replay if r.label is not None]
        condition = Condition(torch.cat(labels)[draw] if labels else None, sources[draw] if given else None)
        t = stratified_times(self.batch, field, ends, generator)
        sample = renoised(field, sources[draw], ends[draw], t, generator)
        phi = field.log_value(sample.x, t, condition).float()
        return Loss(phi.exp() - w[draw] * phi)
