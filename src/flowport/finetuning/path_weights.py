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

from flowport.tensors import standard_error

LEVELS = 200
"""Number of intervals of the grid 0, 1/200, …, 1 on which the annealed strength a and the temper are searched."""

STILL = 1e-5
"""Share of the largest spread of a coordinate below which another is taken for constant."""

LEAST_OF_CLASS = 4
"""Results of a class from which on they are a group of their own: a lone result has the weight 1 whatever it earns."""

Groups = int | Tensor
"""Groups of paths that share a law of results: a number of equal, contiguous groups of the last dimension, or the
number of every path's group, (…, n) int64 in [0, n)."""


def law_groups(label: Tensor | None, starts: int | None = None) -> Groups:
    """The groups whose tilts are normalised each by itself: those of a start, else those of a told class, else one.

    Classes of fewer than ``LEAST_OF_CLASS`` results are one group together. Continuous labels are taken for one group,
    since hardly two are alike. Nothing is read by the host.

    Args:
        label: Told classes, (…, n) int64, or continuous values; None where none are told.
        starts: Number of starts, each with as many contiguous paths; None where the field does not see its start.
    """
    if starts is not None:
        return starts
    if label is None or label.is_floating_point():
        return 1
    label = label.contiguous()
    index = torch.searchsorted(label.sort(-1).values, label)  # where the class begins among the sorted ones
    few = _total(torch.ones_like(index), index) < LEAST_OF_CLASS
    return torch.where(few, label.shape[-1] - 1, index)  # the last place begins no class but a lone result's


def _total(values: Tensor, index: Tensor) -> Tensor:
    """Sum over every path's group, (…, n)."""
    index = index.expand(values.shape)
    return torch.zeros_like(values).scatter_add(-1, index, values).gather(-1, index)


def _largest(values: Tensor, index: Tensor) -> Tensor:
    """Largest value of every path's group, (…, n)."""
    index = index.expand(values.shape)
    return torch.full_like(values, -torch.inf).scatter_reduce(-1, index, values, "amax").gather(-1, index)


def normalised(logits: Tensor, groups: Groups) -> Tensor:
    """Softmax within each group of paths, times the group's share of the paths: the weights sum to 1, (…, n).

    Args:
        logits: Log weights, (…, n).
        groups: Groups of the last dimension.
    """
    if isinstance(groups, int):
        return logits.unflatten(-1, (groups, -1)).softmax(-1).flatten(-2) / groups
    w = (logits - _largest(logits, groups)).exp()
    return w * _total(torch.ones_like(w), groups) / (_total(w, groups) * w.shape[-1])


def group_size(values: Tensor, groups: Groups) -> Tensor:
    """Number of values in every path's group, (…, n).

    Args:
        values: Values of the paths, (…, n), of which the shape alone matters.
        groups: Groups of the last dimension.
    """
    if isinstance(groups, int):
        return torch.full_like(values, values.shape[-1] // groups)
    return _total(torch.ones_like(values), groups)


def group_mean(values: Tensor, groups: Groups) -> Tensor:
    """Mean over every path's group, (…, n).

    Args:
        values: Values of the paths, (…, n).
        groups: Groups of the last dimension.
    """
    if isinstance(groups, int):
        rows = values.unflatten(-1, (groups, -1))
        return rows.mean(-1, keepdim=True).expand_as(rows).flatten(-2)
    return _total(values, groups) / group_size(values, groups)


def effective(weights: Tensor, groups: Groups) -> Tensor:
    """Effective sample size 1/Σw² as a share of the group's size, averaged over the paths' groups, (…).

    Args:
        weights: Weights of sum 1, (…, n), of which each group has its share of the paths.
        groups: Groups of the last dimension.
    """
    return (1 / group_mean((weights * weights.shape[-1]).square(), groups)).mean(-1)


def annealed_strength(reward: Tensor, log_ratio: Tensor, groups: Groups, ess: float) -> tuple[Tensor, Tensor]:
    """Annealed strength a and temper τ at which the weights e^{τ (a r − S)} have the effective sample size ``ess``.

    a is the largest value in [0, 1] at which the weights e^{a r − S} reach ``ess``, and then τ = 1. If no a reaches it,
    τ < 1 is the largest exponent in [0, 1] that reaches ``ess``, and a only the value of the largest effective sample
    size: it is no part of the strength that the paths reach, and must not be reported as such.

    Args:
        reward: λr of the paths' results, (n,).
        log_ratio: S = log dP/dP_base of the paths, (n,).
        groups: Groups within which the weights are normalised.
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


def centred(values: Tensor, groups: Groups) -> Tensor:
    """Leave-one-out centring: every value minus the mean of the others of its group, (n,).

    The baseline is independent of the value's own path, so the mean of a product with it is a covariance without bias
    for groups of any size. The value of a path that is alone in its class is 0.

    Args:
        values: Values, (n,).
        groups: Groups; a number of them has at least 2 in each.
    """
    if isinstance(groups, int):
        v = values.view(groups, -1)
        return ((v - v.mean(1, keepdim=True)) * (v.shape[1] / (v.shape[1] - 1))).flatten()
    count = _total(torch.ones_like(values), groups)
    return (values - _total(values, groups) / count) * (count / (count - 1).clamp_min(1))


def standardised(values: Tensor, groups: Groups) -> Tensor:
    """``centred`` values over the standard deviation of their group; 0 where they differ by rounding alone, (n,).

    Args:
        values: Values, (n,).
        groups: Groups; a number of them has at least 2 in each.
    """
    relative, size = centred(values, groups), values.abs()
    if isinstance(groups, int):
        rows = values.view(groups, -1)
        by_group = rows.std(1, keepdim=True), size.view(groups, -1).amax(1, keepdim=True)
        spread, largest = (v.expand_as(rows).flatten() for v in by_group)
    else:
        count = _total(torch.ones_like(values), groups)
        spread, largest = (_total(relative.square(), groups) * (count - 1)).sqrt() / count, _largest(size, groups)
    return torch.where(spread > 10 * torch.finfo(values.dtype).eps * largest, relative / spread, 0)


def largest_gap(differences: Tensor, errors: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """The clearest difference of a coordinate's mean, in units of its spread, and its standard error, each ().

    The coordinate of the largest |difference|/error, and its sign, are chosen on one half of the results and measured
    on the other, and the other way round: the value is the mean of both. Equal means give 0 within the error whatever
    the number of coordinates, so by noise also less than 0. A coordinate does not vary, and is left out, where its
    spread is below ``STILL`` times the largest one, for instance a background pixel, whose rounding divided by rounding
    would be reported otherwise.

    Args:
        differences: Differences of means on the two halves, (2, d).
        errors: Their standard errors, (2, d).
        spread: Standard deviations of the coordinates, (d,).
    """
    moves = spread > STILL * spread.amax()
    unit = torch.where(moves, spread, torch.inf)
    score = differences.abs() / errors.clamp_min(1e-30) * moves
    chosen = score.argmax(-1)  # of either half
    sign = differences.gather(-1, chosen[:, None])[:, 0].sign()
    measured, noise = (v.flip(0).gather(-1, chosen[:, None])[:, 0] / unit[chosen] for v in (differences, errors))
    return (sign * measured).mean(), noise.square().sum().sqrt() / 2


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Means and their standard errors of the even and of the odd rows, each (2, …).

    Args:
        rows: Independent rows, (n, …).
    """
    parts = [rows[k::2] for k in (0, 1)]
    return torch.stack([p.mean(0) for p in parts]), torch.stack([standard_error(p, 0) for p in parts])


def best_of_divergence(n: int) -> float:
    """Kullback–Leibler divergence KL(best of n ‖ base) = log n − (n − 1)/n, in nats.

    It holds for rewards without ties; with ties it is an upper bound (Beirami et al. 2024).

    Args:
        n: Number of results of which the best is taken.
    """
    return math.log(n) - (n - 1) / n
