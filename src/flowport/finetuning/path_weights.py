"""Path weights: self-normalised importance weights of paths, annealed to a given effective sample size.

References:
    Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
        doi:10.1080/01621459.1994.10476469 (effective sample size).
    Kappen and Ruiz 2016, "Adaptive importance sampling for control and inference", doi:10.1007/s10955-016-1446-7
        (weights of controlled paths).
    Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy", arXiv:2401.01879.
"""

import math

import torch
from torch import Tensor

LEVELS = 200
"""Number of intervals of the grid 0, 1/200, …, 1 on which the annealed strength a and the temper are searched."""

STILL = 1e-5
"""Share of the largest spread of a coordinate below which another is taken for constant."""


def normalised(logits: Tensor, groups: int) -> Tensor:
    """Softmax within each group of paths, divided by the number of groups: the weights sum to 1, (…, n).

    Args:
        logits: Log weights, (…, n).
        groups: Number of equal, contiguous groups of the last dimension.
    """
    return logits.unflatten(-1, (groups, -1)).softmax(-1).flatten(-2) / groups


def effective(weights: Tensor, groups: int) -> Tensor:
    """Effective sample size 1/Σw² as a share of the group's size, averaged over the groups, (…).

    Args:
        weights: Weights of sum 1, each group with the same sum, (…, n).
        groups: Number of equal, contiguous groups of the last dimension.
    """
    w = weights.unflatten(-1, (groups, -1)) * groups
    return (1 / w.square().sum(-1) / w.shape[-1]).mean(-1)


def annealed_strength(reward: Tensor, log_ratio: Tensor, groups: int, ess: float) -> tuple[Tensor, Tensor]:
    """Annealed strength a and temper τ at which the weights e^{τ (a r − S)} have the effective sample size ``ess``.

    a is the largest value in [0, 1] at which the weights e^{a r − S} reach ``ess``, and then τ = 1. If no a reaches it,
    τ < 1 is the largest exponent in [0, 1] that reaches ``ess``, and a only the value of the largest effective sample
    size: it is no part of the strength that the paths reach, and must not be reported as such.

    Args:
        reward: λr of the paths' results, (n,).
        log_ratio: S = log dP/dP_base of the paths, (n,).
        groups: Number of equal, contiguous groups within which the weights are normalised.
        ess: Required effective sample size, a share of n in (0, 1).

    Returns:
        a and τ, each ().
    """
    level = torch.linspace(0, 1, LEVELS + 1, dtype=reward.dtype, device=reward.device)
    sizes = effective(normalised(level[:, None] * reward - log_ratio, groups), groups)
    enough = sizes >= ess
    best = torch.where(enough.any(), torch.where(enough, level, -1).argmax(), sizes.argmax())
    scale = level.take(best)  # an index of no dimension would be read by the host
    tempered = effective(normalised(level[:, None] * (scale * reward - log_ratio), groups), groups)
    return scale, level.take(torch.where(tempered >= ess, level, -1).argmax())


def centred(values: Tensor, groups: int) -> Tensor:
    """Leave-one-out centring: every value minus the mean of the others of its group, (n,).

    The baseline is independent of the value's own path, so the mean of a product with it is a covariance without bias
    for groups of any size.

    Args:
        values: Values, (n,).
        groups: Number of equal, contiguous groups, each of at least 2.
    """
    v = values.view(groups, -1)
    return ((v - v.mean(1, keepdim=True)) * (v.shape[1] / (v.shape[1] - 1))).flatten()


def largest_gap(difference: Tensor, spread: Tensor) -> Tensor:
    """The largest |difference|/spread of a coordinate, (); coordinates that do not vary are left out.

    A coordinate does not vary where its spread is below ``STILL`` times the largest one, for instance a background
    pixel, whose rounding divided by rounding would be reported otherwise.

    Args:
        difference: Differences of means, (d,).
        spread: Standard deviations, (d,).
    """
    moves = spread > STILL * spread.amax()
    return torch.where(moves, difference.abs() / torch.where(moves, spread, 1.0), 0.0).amax()


def best_of_divergence(n: int) -> float:
    """Kullback–Leibler divergence KL(best of n ‖ base) = log n − (n − 1)/n, in nats.

    It holds for rewards without ties; with ties it is an upper bound (Beirami et al. 2024).

    Args:
        n: Number of results of which the best is taken.
    """
    return math.log(n) - (n - 1) / n
