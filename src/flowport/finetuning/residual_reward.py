"""Residual reward: the log density ratio between the tilt and the results of a tuned flow, learnt by classification.

It is the reward of residual reward boosting, which reaches the tilt of all results where fine-tuning given the start
tilts each start's law on its own. Fixed point: q = p1 e^{λr}/Z. The rounds are iterative proportional fitting in
path space, with the density ratio in place of the corrector of the adjoint Schrödinger bridge sampler.

References:
    Mohamed and Lakshminarayanan 2016, "Learning in implicit generative models", arXiv:1610.03483 (density ratios by
        classification).
    Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks", arXiv:1706.04599.
    Liu, Choi, Chen, Miller and Chen 2025, "Adjoint Schrödinger bridge sampler", arXiv:2506.22565.
"""

from collections.abc import Callable
from math import prod, sqrt
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from flowport.cache import TrainingSettings, trained
from flowport.distribution.base import Distribution
from flowport.network.base import Network
from flowport.reward.base import Reward, freeze
from flowport.types import Condition, ConditionShape


@final
class ResidualReward(Reward):
    """Residual reward f(x1) ≈ λr(x1) − log Z − log q(x1)/p1(x1), with p1 the base's results and q the tuned flow's.

    f(x1) = scale · Σ network(x1)/√d, the sum over the d coordinates of the network's output at t = 1. It is learnt by
    ``fit`` from results of the base and of the flow tuned so far, and is 0 everywhere once q is the tilt.

    Args:
        network: Partial of a network that takes the flow's points; ``check`` completes it with their shape.
        points: Number of results of each of the two flows to learn from; a quarter of them is held out.
        steps: Number of optimiser steps.
    """

    learnt = True

    def __init__(self, network: Callable[..., Network], points: int = 4096, steps: int = 1000) -> None:
        super().__init__()
        self.network_factory, self.points = network, points
        self.recipe = TrainingSettings(rate=3e-3, decay=0.01, steps=steps, batch=256)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def check(self, source: Distribution, target: Distribution) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.recipe.seed)
            self.network = self.network_factory(event_shape=target.event_shape, condition=ConditionShape(), heads=1)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        kind = next(self.network.parameters()).dtype
        out = self.network(x1.to(kind), x1.new_ones(len(x1), dtype=kind), Condition())
        return self.scale * out.flatten(1).sum(1).to(x1.dtype) / sqrt(prod(x1.shape[1:]))

    def fit(self, base: Tensor, tuned: Tensor, value: Callable[[Tensor], Tensor], generator: torch.Generator) -> float:
        """Learn f by classifying results of the tuned flow against results of the base.

        The network minimises ``cross_entropy`` on three quarters of the rows. A logistic regression of slope a ≥ 0 and
        intercept b on the held-out quarter then sets ``scale`` = a, which calibrates an overconfident network (Guo et
        al. 2017).

        Args:
            base: Results of the base, (n, *D).
            tuned: Results of the tuned flow, (n, *D), row k from the same start as row k of ``base``.
            value: The function x1 -> λr(x1), (m, *D) to (m,).
            generator: Random generator of the split and the batches, on the device of the results.

        Returns:
            Cross-entropy of the held-out rows in nats: ln 2 where q and p1 cannot be distinguished.
        """
        x, is_tuned = torch.stack([base, tuned], 1), torch.tensor([0.0, 1.0], device=base.device)
        values = value(x.flatten(0, 1)).view(-1, 2)
        values = (
            values - values[:, 0].logsumexp(0) + torch.tensor(len(x)).log()
        )  # minus log Z: the fixed point is f = 0
        order = torch.randperm(len(x), generator=generator, device=x.device)
        train, held_out = order[len(x) // 4 :], order[: len(x) // 4]

        def loss(rows: Tensor, a: Tensor | float = 1.0, b: Tensor | float = 0.0) -> Tensor:
            f = self(x[rows].flatten(0, 1), Condition())
            return cross_entropy(a * f + b, values[rows].flatten(), is_tuned.repeat(len(rows)))

        def step() -> Tensor:
            index = torch.randint(len(train), (self.recipe.batch,), generator=generator, device=x.device)
            return loss(train[index])

        with torch.enable_grad():
            trained(self.network.requires_grad_(True), self.recipe, "residual reward", step)
            freeze(self)
            line = torch.tensor([1.0, 0.0], device=x.device, requires_grad=True)
            search = torch.optim.LBFGS([line], max_iter=50, line_search_fn="strong_wolfe")

            def closure() -> Tensor:
                search.zero_grad()
                held_out_loss = loss(held_out, line[0], line[1])
                held_out_loss.backward()
                return held_out_loss

            search.step(closure)
        self.scale.fill_(line[0].detach().clamp_min(0))
        return float(loss(held_out, 1.0, line[1].detach()))


def cross_entropy(f: Tensor, value: Tensor, is_tuned: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of −log P(flow | x), (), with P(tuned | x) = σ(λr(x) − log Z − f(x)); least at f = λr − log Z − log q/p1.

    Args:
        f: Residual reward, (n,).
        value: λr − log Z, (n,).
        is_tuned: The flow that made a result, 1 for the tuned one and 0 for the base, (n,).
        weight: Weights of the terms, (n,); None for 1.
    """
    return binary_cross_entropy_with_logits(value - f, is_tuned.to(f), weight)
