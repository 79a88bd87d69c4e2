"""What the results of a tuned flow still lack of a tilt, learnt by telling them from the results of its base."""

from collections.abc import Callable
from math import prod, sqrt
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from flowport.cache import TrainingSettings, optimised
from flowport.distribution.base import Distribution
from flowport.network.base import Network
from flowport.reward.base import Reward, freeze
from flowport.types import Condition, ConditionShape


@final
class ResidualReward(Reward):
    """f(x1) = scale · Σ network(x1)/√D ≈ λr − log q/p1, learnt from results of the base and of the flow tuned so far.

    network: of any kind that takes the flow's points, asked at t = 1 (a partial, finished by ``check``); points:
    results of either flow that it is learnt from, of which a quarter are held out; steps: of learning.
    """

    learnt = True

    def __init__(self, network: Callable[..., Network], points: int = 4096, steps: int = 1000) -> None:
        super().__init__()
        self.unfinished, self.points = network, points
        self.recipe = TrainingSettings(rate=3e-3, decay=0.01, steps=steps, batch=256)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def check(self, source: Distribution, target: Distribution) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.recipe.seed)
            self.network = self.unfinished(event_shape=target.event_shape, condition=ConditionShape(), heads=1)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        kind = next(self.network.parameters()).dtype
        out = self.network(x1.to(kind), x1.new_ones(len(x1), dtype=kind), Condition())
        return self.scale * out.flatten(1).sum(1).to(x1.dtype) / sqrt(prod(x1.shape[1:]))

    def fit(self, base: Tensor, tuned: Tensor, value: Callable[[Tensor], Tensor], generator: torch.Generator) -> float:
        """Learn from results (n, *D) of both flows, row k of both from one start; value: x1 -> λr.

        A last logistic regression on held-out rows scales what was learnt, so that an overconfident network promises no
        more than it knows (Guo et al. 2017). Returns their cross-entropy: ln 2 where q and p1 cannot be told apart.
        """
        x, achieved = torch.stack([base, tuned], 1), torch.tensor([0.0, 1.0], device=base.device)
        told = value(x.flatten(0, 1)).view(-1, 2)
        told = told - told[:, 0].logsumexp(0) + torch.tensor(len(x)).log()  # less log Z: the fixed point is f = 0
        order = torch.randperm(len(x), generator=generator, device=x.device)
        kept, held = order[len(x) // 4 :], order[: len(x) // 4]

        def loss(rows: Tensor, a: Tensor | float = 1.0, b: Tensor | float = 0.0) -> Tensor:
            f = self(x[rows].flatten(0, 1), Condition())
            return cross_entropy(a * f + b, told[rows].flatten(), achieved.repeat(len(rows)))

        def step() -> Tensor:
            index = torch.randint(len(kept), (self.recipe.batch,), generator=generator, device=x.device)
            return loss(kept[index])

        with torch.enable_grad():
            optimised(self.network.requires_grad_(True), self.recipe, "residual reward", step)
            freeze(self)
            line = torch.tensor([1.0, 0.0], device=x.device, requires_grad=True)
            search = torch.optim.LBFGS([line], max_iter=50, line_search_fn="strong_wolfe")

            def again() -> Tensor:
                search.zero_grad()
                found = loss(held, line[0], line[1])
                found.backward()
                return found

            search.step(again)
        self.scale.fill_(line[0].detach().clamp_min(0))
        return float(loss(held, 1.0, line[1].detach()))


def cross_entropy(f: Tensor, value: Tensor, achieved: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of −log P of which flow made a result, with P(tuned | x) = σ(λr(x) − log Z − f(x)): least where f is
    λr − log Z − log q/p1. f, value = λr − log Z, achieved (1: tuned, 0: base), weight: (n,)."""
    return binary_cross_entropy_with_logits(value - f, achieved.to(f), weight)
