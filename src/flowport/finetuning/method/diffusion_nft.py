"""DiffusionNFT: good and bad results of the current flow are contrasted along the forward process.

References:
    Zheng et al. 2025, "DiffusionNFT: online diffusion reinforcement with forward process", arXiv:2509.16117.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.errors import Count, NonNegative, Positive, SampleSize
from flowport.finetuning.forward_process import (
    advantage,
    collect_forward,
    drawn_points,
    forward_footprint,
    resting_law,
)
from flowport.finetuning.method.base import FineTuningMethod, Footprint, Rollout
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.sampling.grid import Grid, UniformGrid
from flowport.types import Pair


class DiffusionNFT(FineTuningMethod):
    """Negative-aware flow matching: good results attract the velocity, bad ones repel it, by one regression.

    With v_old the averaged velocity that made the results, v = ẋ_t of a re-noised result and its optimality ρ, the loss
    at x_t is

        ρ |v⁺ − v|² + (1 − ρ) |v⁻ − v|² + κ |Δv|²,    v^± = (1 ∓ β) v_old ± β v_θ,
        ρ = ½ + ½ clip(A/Z, −1, 1),    κ = kl β/Z,    Z = spread · std(A),

    A = λr minus its mean over the group, Δv the change of the base's velocity; squares are weighted as in
    ``renoising.regression_error``. Without the clip, and for v_old the velocity of its own results, one collection has
    its minimum at

        v_θ = v_old + (Cov(λr, ẋ_t | x_t)/Z − κ Δv/β)/β,

    which for kl = 0 and ρ in {0, 1} is v_old + (2/β) α(x_t) (v⁺_data − v_old) of the paper, α = E[ρ | x_t]. It is an
    Euler step of tilt matching of the length 1/(βZ): with kl = 0 (as published, but for a small weight) the strength
    grows by 1/(βZ) with every collection, without a law to stay at. With kl > 0 the flow rests where
    kl Δv = Cov(λr, ẋ_t | x_t) under its own results: the tilt p e^{λr/kl}/Z for linear rewards of Gaussians, another
    law otherwise, since the tilt's Δv is the mean of this covariance over the strengths from 0 to 1/kl. The clip
    shortens the step: by the factor P(|A| < Z) for a linear reward of a Gaussian. No gradient of the reward is needed.
    An error of v_old against the velocity of its own results, e = E[x1 | x_t] − E_old[x1 | x_t], enters the minimum as
    E[A | x_t] e: it shrinks where E[A | x_t] > −kl and grows elsewhere, so that a flow with regions whose results earn
    many nats less than the mean runs away. Such a tuning is stopped with a sentence; a larger kl rests nearer the base.
    On a bridge whose field sees x0, groups are results of one start, an extension of this package.

    A rollout records times (k,), states, old and rest (k, n, *D) (``forward_process.collect_forward``).

    Args:
        grid: Times of the steps of the simulated flow; None: 40 uniform steps.
        beta: β > 0, the share of the trained velocity in v^±; smaller ones go further per collection.
        spread: Z in standard deviations of A, beyond which advantages are clipped.
        kl: Weight of the distance to the base, 0 or the temperature at which the flow rests.
        noisings: Times at which every result is re-noised.
        batch: Points per optimiser step.
        steps_per_rollout: Optimiser steps per collection.
        paths: Results per start on a bridge whose field sees it.

    Raises:
        FlowportError: For β ≤ 0, spread ≤ 0, kl < 0, paths < 2 or another count below 1.
    """

    needs_gradient = False

    def __init__(
        self,
        grid: Grid | None = None,
        beta: Positive = 1.0,
        spread: Positive = 5.0,
        kl: NonNegative = 1.0,
        noisings: Count = 32,
        batch: Count = 512,
        steps_per_rollout: Count = 60,
        paths: SampleSize = 16,
    ) -> None:
        self.grid, self.beta, self.spread, self.kl = grid or UniformGrid(40), beta, spread, kl
        self.noisings, self.batch, self.steps_per_rollout, self.paths = noisings, batch, steps_per_rollout, paths
        self.target = resting_law(kl)

    def footprint(self, starts: int, sees_source: bool) -> Footprint:
        return forward_footprint(starts, sees_source, self.noisings, self.batch, self.paths)

    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        return collect_forward(field, reward, strength, pair, generator, self.grid, self.noisings, self.paths)

    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        rollout = replay[-1]
        points, (gained, deviation) = (
            drawn_points(field, rollout, self.batch, generator),
            advantage(field, rollout, self.paths),
        )
        scale = self.spread * deviation
        optimality = 0.5 + 0.5 * (gained / scale).clamp(-1, 1)[points.row]
        step = self.beta * (points.moved - points.old)
        contrast = torch.lerp(points.squared(step + points.rest), points.squared(step - points.rest), optimality)
        return Loss(contrast + self.kl * self.beta / scale * points.squared(points.moved))
