"""Value matching: the logarithm of E[e^{λr(x1)} | x_t] is learnt as a number, and its gradient tilts the flow."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.conditioning import SourceLabelConditioning, TargetLabelConditioning
from flowport.errors import FlowportError, option
from flowport.finetuning.method.base import FineTuningMethod, Rollout, facts_of, finite, origins, scaled_reward, starts
from flowport.finetuning.path_weights import effective, normalised
from flowport.finetuning.renoising import renoised, simulate, spaced
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.types import Condition, Pair


class ValueMatching(FineTuningMethod):
    """Poisson regression of the weights w = e^{λr}/E e^{λr} of the base's own results, re-noised, on φ = log h_t/h_0:

        E[e^{φ(x_t)} − w φ(x_t)],

    least at e^φ = E[w | x_t], so at G = ∇φ = ∇ log h_t (this project; log h is the value function of the control
    problem, and a noisy classifier where the reward is a class, as in Dhariwal & Nichol 2021). One number is asked of
    every point, where the other methods ask a vector whose noise hides it between separated modes (THEORY 3.7); the
    weights are those of the base, so nothing is found where e^{λr} leaves too few of its results.

    batch: points of an optimiser step; steps_per_rollout: such steps for every collection; replay_size: collections
    in the replay, all of
    the base and equally good; paths: from every start of a batch on a bridge, where w has the mean 1 start by start.
    Needs adapter=value. No gradient of the reward.
    """

    target = "p e^r: marginal from noise, per start on a bridge that sees it"
    needs_gradient = False

    def __init__(
        self,
        grid: Grid | None = None,
        batch: int = 512,
        steps_per_rollout: int = 60,
        replay_size: int = 100,
        paths: int = 16,
    ) -> None:
        if min(batch, steps_per_rollout, replay_size) < 1 or paths < 2:
            raise FlowportError(
                f"value matching needs batch, steps_per_rollout, replay_size ≥ 1 and paths ≥ 2, not {batch}, "
                f"{steps_per_rollout}, {replay_size}, {paths}"
            )
        self.grid, self.batch, self.steps_per_rollout, self.replay_size, self.paths = (
            grid or UniformGrid(40),
            batch,
            steps_per_rollout,
            replay_size,
            paths,
        )

    def fits(self, field: TiltedField) -> None:
        if isinstance(field.conditioning, TargetLabelConditioning | SourceLabelConditioning):
            raise FlowportError(
                "method=value_matching knows one mean of e^{λr}, but a flow that is told labels has one "
                "for each: use method=path_weighted_adjoint or path_weighted"
            )
        if not field.adapter.valued:
            raise FlowportError(
                f"method=value_matching learns a number, which {option('adapter', field.adapter)} has not: use "
                f"adapter=value"
            )

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        given = field.conditioning.sees_source
        start, condition = starts(field, pair, generator, self.paths if given else 1)
        end = finite(simulate(field.base, start, condition, self.grid, generator)[-1], "a result", strength)
        value = scaled_reward(reward, end, condition, strength)
        w = normalised(value, len(pair) if given else 1)
        source = origins(start, condition)
        facts = facts_of(
            value,
            torch.zeros_like(value),
            end,
            tilted_reward=(w * value).sum(),
            effective=effective(w, len(pair) if given else 1),
        )
        return Rollout(source, end, value, torch.zeros_like(value), condition.label), facts

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        given = field.conditioning.sees_source
        sources, ends, value = (torch.cat([getattr(kept, n) for kept in replay]) for n in ("start", "end", "reward"))
        w = len(value) * normalised(value, len(value) // self.paths if given else 1)
        draw = torch.randint(len(value), (self.batch,), generator=generator, device=value.device)
        labels = [kept.label for kept in replay if kept.label is not None]
        condition = Condition(torch.cat(labels)[draw] if labels else None, sources[draw] if given else None)
        t = spaced(self.batch, field, ends, generator)
        sample = renoised(field, sources[draw], ends[draw], t, generator)
        phi = field.log_value(sample.x, t, condition).float()
        return Loss(phi.exp() - w[draw] * phi)
