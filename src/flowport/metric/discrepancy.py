"""Discrepancies between empirical laws by averages over pairs: energy distance and maximum mean discrepancy.

References:
    Székely and Rizzo 2013, "Energy statistics: a class of statistics based on distances",
        doi:10.1016/j.jspi.2013.03.018.
    Gretton et al. 2012, "A kernel two-sample test", JMLR 13:723-773; earlier version: 2008, "A kernel method for the
        two-sample problem", arXiv:0805.2368.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flowport.errors import FlowportError, Positive, SampleSize
from flowport.metric.precision import distances, rows
from flowport.metric.two_sample import TwoSample

ROWS = 1024  # rows of a pair matrix in memory at once
Kernel = Callable[[Tensor, Tensor], Tensor]


def pair_mean(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Mean of kernel(x_i, y_j) over all i and j, a scalar.

    Args:
        kernel: (n, d), (m, d) -> (n, m).
        x: Points, (n, d).
        y: Points, (m, d).
    """
    return torch.stack([kernel(part, y).sum() for part in x.split(ROWS)]).sum() / (len(x) * len(y))


def own_pair_mean(kernel: Kernel, x: Tensor) -> Tensor:
    """Mean of kernel(x_i, x_j) over i ≠ j, a scalar.

    Args:
        kernel: (n, d), (m, d) -> (n, m).
        x: Points, (n, d), n at least 2.
    """
    n = len(x)
    parts = [
        kernel(part, x).sum() - kernel(part, x[k * ROWS : k * ROWS + len(part)]).diagonal().sum()
        for k, part in enumerate(x.split(ROWS))
    ]
    return torch.stack(parts).sum() / (n * (n - 1))


def unbiased_mmd(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Unbiased MMD²_u = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_{ij} k(x_i, y_j), a scalar.

    Its expectation is 0 for two samples of one law.

    Args:
        kernel: k: (n, d), (m, d) -> (n, m).
        x: Points, (n, d), n at least 2.
        y: Points, (m, d), m at least 2.

    References:
        Gretton et al. 2012, "A kernel two-sample test", JMLR 13:723-773, Lemma 6.
    """
    return own_pair_mean(kernel, x) + own_pair_mean(kernel, y) - 2 * pair_mean(kernel, x, y)


def energy_distance(x: Float[Tensor, "n *d"], y: Float[Tensor, "m *d"]) -> Tensor:
    """Energy distance D² = 2E|X − Y| − E|X − X'| − E|Y − Y'| between two empirical laws.

    Pairs with equal indices are included, so D² ≥ 0. On the line D² = 2∫(F − G)².

    Args:
        x: Points, (n, *D).
        y: Points, (m, *D).

    Returns:
        A float64 scalar in the unit of x.

    References:
        Székely and Rizzo 2013, "Energy statistics: a class of statistics based on distances",
            doi:10.1016/j.jspi.2013.03.018.
    """
    x, y = rows(x), rows(y)
    return 2 * pair_mean(distances, x, y) - pair_mean(distances, x, x) - pair_mean(distances, y, y)


def median_distance(y: Float[Tensor, "m *d"], points: int = 1024) -> Tensor:
    """Median of |y_i − y_j| over i < j, a float64 scalar, on about ``points`` evenly strided points.

    Args:
        y: Points, (m, *D).
        points: Approximate number of points that are used.

    Raises:
        FlowportError: When the median is 0.
    """
    y = rows(y)
    y = y[:: max(1, len(y) // points)]
    i, j = torch.triu_indices(len(y), len(y), offset=1, device=y.device)
    median = distances(y, y)[i, j].median()
    if median <= 0:
        raise FlowportError(
            "MMD measures bandwidths in median distances of the target, but most target points coincide"
        )
    return median


def mmd(
    x: Float[Tensor, "n *d"],
    y: Float[Tensor, "m *d"],
    bandwidths: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
) -> Tensor:
    """Unbiased squared maximum mean discrepancy with k(a, b) = mean_h exp(−|a − b|²/(2 h² s²)).

    s is the median distance within y, the target, so the kernel does not depend on the model. The value can be negative
    and is at most 2.

    Args:
        x: Points, (n, *D).
        y: Points of the target, (m, *D).
        bandwidths: The h over which the kernel is averaged, in units of s.

    Returns:
        A float64 scalar without a unit.

    References:
        Gretton et al. 2012, "A kernel two-sample test", JMLR 13:723-773, Lemma 6.
    """
    x, y = rows(x), rows(y)
    scale = median_distance(y)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = (distances(a, b) / scale).square()
        return torch.stack([(-square / (2 * h * h)).exp() for h in bandwidths]).mean(dim=0)

    return unbiased_mmd(kernel, x, y)


class EnergyDistance(TwoSample):
    """Energy distance ``energy`` between translations and target, see :func:`energy_distance`.

    Values: ``energy`` with ``_floor``, ``_untranslated`` and ``_n``, in the unit of the points.

    Args:
        points: Largest number of points of each sample.
        seed: Seed of the subsets.
    """

    def __init__(self, points: SampleSize = 4096, seed: int = 0) -> None:
        super().__init__("energy", points, seed)

    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"": energy_distance(x, y)}


class MMD(TwoSample):
    """Unbiased squared maximum mean discrepancy ``mmd`` between translations and target, see :func:`mmd`.

    Values: ``mmd`` with ``_floor``, ``_untranslated`` and ``_n``, without a unit.

    Args:
        bandwidths: Bandwidths of the Gaussian kernels, in median distances of the target.
        points: Largest number of points of each sample.
        seed: Seed of the subsets.

    Raises:
        FlowportError: Without a bandwidth.
    """

    def __init__(
        self, bandwidths: Sequence[Positive] = (0.25, 0.5, 1.0, 2.0), points: SampleSize = 4096, seed: int = 0
    ) -> None:
        super().__init__("mmd", points, seed)
        if not len(bandwidths):
            raise FlowportError("metric.mmd.bandwidths=[] has no bandwidth: write for instance [0.5,1]")
        self.bandwidths = tuple(bandwidths)

    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"": mmd(x, y, self.bandwidths)}
