"""Path weights: self-normalised, annealed until enough of the paths count."""

import math

import torch
from torch import Tensor

LEVELS = 200
"""Values of the reached strength a (and of the temper) that are tried: 0, 1/200, …, 1."""


def normalised(logits: Tensor, groups: int) -> Tensor:
    """Softmax of (…, n) within each of ``groups`` equal parts of the last dimension, over groups: the sum is 1."""
    return logits.unflatten(-1, (groups, -1)).softmax(-1).flatten(-2) / groups


def effective(weights: Tensor, groups: int) -> Tensor:
    """Effective sample size 1/Σw² of weights (…, n), as a share of n: the mean over the groups, (…)."""
    w = weights.unflatten(-1, (groups, -1)) * groups
    return (1 / w.square().sum(-1) / w.shape[-1]).mean(-1)


def reached(reward: Tensor, log_ratio: Tensor, groups: int, ess: float) -> tuple[Tensor, Tensor]:
    """(a, temper): the largest a in [0, 1] for which the weights e^{a r − S} have at least the effective size ``ess``,
    and 1; where there is none the a of the largest, and the exponent that brings the weights to it."""
    level = torch.linspace(0, 1, LEVELS + 1, dtype=reward.dtype, device=reward.device)
    sizes = effective(normalised(level[:, None] * reward - log_ratio, groups), groups)
    enough = sizes >= ess
    best = torch.where(enough.any(), torch.where(enough, level, -1).argmax(), sizes.argmax())
    scale = level[best]
    tempered = effective(normalised(level[:, None] * (scale * reward - log_ratio), groups), groups)
    return scale, level[torch.where(tempered >= ess, level, -1).argmax()]


def centred(values: Tensor, groups: int) -> Tensor:
    """Every value less the mean of the others of its group, (n,): a baseline that the value itself does not move, so
    that products with it have the mean of a covariance whatever the size of the groups."""
    v = values.view(groups, -1)
    return ((v - v.mean(1, keepdim=True)) * (v.shape[1] / (v.shape[1] - 1))).flatten()


def best_of_divergence(n: int) -> float:
    """KL(best of n | base) = log n − (n − 1)/n, for rewards without ties (with ties less): the budget of best-of-n
    (Beirami et al. 2024, Theoretical guarantees on the best-of-n alignment policy)."""
    return math.log(n) - (n - 1) / n
