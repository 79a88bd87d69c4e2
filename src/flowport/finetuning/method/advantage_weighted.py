"""Advantage-weighted matching: a policy gradient whose log-likelihood is the flow-matching error.

References:
    Xue et al. 2025, "Advantage weighted matching: aligning RL with pretraining in diffusion models", arXiv:2509.25050.
    Schulman, Wolski, Dhariwal, Radford and Klimov 2017, "Proximal policy optimization algorithms", arXiv:1707.06347.
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


class AdvantageWeighted(FineTuningMethod):
    """Advantage-weighted matching: flow matching of own results, weighted by their advantage, near the base.

    With L_θ = |D_θ − (x1 − E_base[x1 | x_t])|²/(d spread²) the flow-matching error of a re-noised result
    (``renoising.regression_error``) and L_old that of the averaged flow that made the results, the loss at x_t is

        −min(ρ A, clamp(ρ, 1 − clip, 1 + clip) A) + kl |D_θ|²/(d spread²),    ρ = exp(L_old − L_θ),

    D = ΔE[x1 | x_t] and A = λr minus its mean over the group. −L stands for the log-likelihood of a result, of which
    it is a bound with other weights over t. Where v_old is the velocity of its own results, the gradient at θ = old is
    that of |D − D_old − Cov(A, x1 | x_t)|² + kl |D|²: the direction of tilt matching. The flow rests where
    kl D = Cov(λr, x1 | x_t) under its own results, as ``DiffusionNFT`` does: the tilt p e^{λr/kl}/Z for linear rewards
    of Gaussians, another law otherwise, since the tilt's D is the mean of this covariance over the strengths from 0 to
    1/kl. Neither the clip nor the form of ρ moves that point, at which ρ = 1. With ``normalise`` (as published) it is
    kl D = Cov(λr, x1 | x_t)/std(A), which does not depend on λ. With kl = 0 the strength grows without bound. No
    gradient of the reward is needed. On a bridge whose field sees x0, groups are results of one start, an extension of
    this package.

    A rollout records times (k,), states, old and rest (k, n, *D) (``forward_process.collect_forward``).

    Args:
        grid: Times of the steps of the simulated flow; None: 40 uniform steps.
        clip: Half-width of the interval of ratios ρ; None: no clipping.
        kl: Weight of the distance to the base.
        normalise: Whether A is divided by its standard deviation, as published.
        noisings: Times at which every result is re-noised.
        batch: Points per optimiser step.
        steps_per_rollout: Optimiser steps per collection.
        paths: Results per start on a bridge whose field sees it.

    Raises:
        FlowportError: For clip ≤ 0, kl < 0, paths < 2 or another count below 1.
    """

    needs_gradient = False

    def __init__(
        self,
        grid: Grid | None = None,
        clip: Positive | None = 0.2,
        kl: NonNegative = 1.0,
        normalise: bool = False,
        noisings: Count = 32,
        batch: Count = 512,
        steps_per_rollout: Count = 60,
        paths: SampleSize = 16,
    ) -> None:
        self.grid, self.clip, self.kl, self.normalise = grid or UniformGrid(40), clip, kl, normalise
        self.noisings, self.batch, self.steps_per_rollout, self.paths = noisings, batch, steps_per_rollout, paths
        self.target = resting_law(kl, "std(r) " if normalise else "")

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
        weight = (gained / deviation if self.normalise else gained)[points.row]
        ratio = (points.squared(points.rest) - points.squared(points.moved - points.old - points.rest)).exp()
        won = ratio * weight
        if self.clip is not None:
            won = torch.minimum(won, ratio.clamp(1 - self.clip, 1 + self.clip) * weight)
        return Loss(self.kl * points.squared(points.moved) - won)
