"""Value matching: the logarithm of E[e^{λr(x1)} | x_t] is learnt as a number, and its gradient tilts the flow."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.conditioning import SourceLabel, TargetLabel
from flowport.errors import Refusal
from flowport.field.tilted import Tilted
from flowport.grid import Grid, Uniform
from flowport.objective.base import Loss
from flowport.objective.results import journey, renoised, spaced
from flowport.objective.tuning import Rollout, Tuning, facts_of, finite, origins, starts, worth
from flowport.objective.weights import effective, normalised
from flowport.reward.base import Reward
from flowport.shapes import Condition, Pair


class ValueMatching(Tuning):
    """Poisson regression of the weights w = e^{λr}/E e^{λr} of the base's own results, re-noised, on φ = log h_t/h_0:

        E[e^{φ(x_t)} − w φ(x_t)],

    least at e^φ = E[w | x_t], so at G = ∇φ = ∇ log h_t (this project; log h is the value function of the control
    problem, and a noisy classifier where the reward is a class, as in Dhariwal & Nichol 2021). One number is asked of
    every point, where the other methods ask a vector whose noise hides it between separated modes (THEORY 3.7); the
    weights are those of the base, so nothing is found where e^{λr} leaves too few of its results.

    batch: points of an optimiser step; rounds: such steps for every collection; keep: collections in the replay, all of
    the base and equally good; paths: from every start of a batch on a bridge, where w has the mean 1 start by start.
    Needs change=value. No gradient of the reward.
    """

    target = "p e^r: marginal from noise, per start on a bridge that sees it"
    needs_gradient = False

    def __init__(self, grid: Grid | None = None, batch: int = 512, rounds: int = 60, keep: int = 100,
                 paths: int = 16) -> None:  # fmt: skip
        if min(batch, rounds, keep) < 1 or paths < 2:
            raise Refusal(f"value matching needs batch, rounds, keep ≥ 1 and paths ≥ 2, not {batch}, {rounds}, {keep}, "
                          f"{paths}")  # fmt: skip
        self.grid, self.batch, self.rounds, self.keep, self.paths = grid or Uniform(40), batch, rounds, keep, paths

    def fits(self, field: Tilted) -> None:
        if isinstance(field.conditioning, TargetLabel | SourceLabel):
            raise Refusal("objective=value_matching knows one mean of e^{λr}, but a flow that is told labels has one "
                          "for each: use objective=hybrid or path_weighted")  # fmt: skip
        if not field.change.valued:
            kind = type(field.change).__name__.lower()
            raise Refusal(f"objective=value_matching learns a number, which change={kind} has not: use change=value")

    def collect(self, field: Tilted, reward: Reward, strength: float, pair: Pair,
                generator: torch.Generator) -> tuple[Rollout, dict[str, Tensor]]:  # fmt: skip
        given = field.conditioning.sees_source
        start, condition = starts(field, pair, generator, self.paths if given else 1)
        end = finite(journey(field.base, start, condition, self.grid, generator)[-1], "a result", strength)
        value = worth(reward, end, condition, strength)
        w = normalised(value, len(pair) if given else 1)
        source = origins(start, condition)
        facts = facts_of(value, torch.zeros_like(value), end, tilted_reward=(w * value).sum(),
                         effective=effective(w, len(pair) if given else 1))  # fmt: skip
        return Rollout(source, end, value, torch.zeros_like(value), condition.label), facts

    def loss(self, field: Tilted, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
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
