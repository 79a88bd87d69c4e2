"""Discrepancies by pair averages: energy distance and maximum mean discrepancy."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flowport.errors import FlowportError
from flowport.metric.precision import distances, rows
from flowport.metric.two_sample import TwoSample

ROWS = 1024  # rows of a pair matrix held at once
Kernel = Callable[[Tensor, Tensor], Tensor]


def pair_mean(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """The mean of kernel(x_i, y_j) over all i and j."""
    return torch.stack([kernel(part, y).sum() for part in x.split(ROWS)]).sum() / (len(x) * len(y))


def own_pair_mean(kernel: Kernel, x: Tensor) -> Tensor:
    """The mean of kernel(x_i, x_j) over i ≠ j."""
    n = len(x)
    parts = [
        kernel(part, x).sum() - kernel(part, x[k * ROWS : k * ROWS + len(part)]).diagonal().sum()
        for k, part in enumerate(x.split(ROWS))
    ]
    return torch.stack(parts).sum() / (n * (n - 1))


def unbiased_mmd(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """MMD²_u = mean_{i≠j} k(x_i,x_j) + mean_{i≠j} k(y_i,y_j) − 2 mean k(x_i,y_j), zero on average for one law.

    Source: Gretton et al. 2012, lemma 6.
    """
    return own_pair_mean(kernel, x) + own_pair_mean(kernel, y) - 2 * pair_mean(kernel, x, y)


def energy_distance(x: Float[Tensor, "n *d"], y: Float[Tensor, "m *d"]) -> Tensor:
    """D² = 2E|X − Y| − E|X − X'| − E|Y − Y'| between the two empirical laws (equal indices included), so D² ≥ 0.

    On the line D² = 2∫(F − G)². Unit: that of x. Returns a float64 scalar. Source: Székely & Rizzo 2013.
    """
    x, y = rows(x), rows(y)
    return 2 * pair_mean(distances, x, y) - pair_mean(distances, x, x) - pair_mean(distances, y, y)


def median_distance(y: Float[Tensor, "m *d"], points: int = 1024) -> Tensor:
    """The median of |y_i − y_j| over i < j, on about ``points`` evenly strided points. Raises FlowportError if it is
    zero."""
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
    """Unbiased MMD² with k(a, b) = mean_h exp(−|a − b|²/(2 h² s²)), s the median distance within y, h in bandwidths.

    It can be negative. No unit; at most 2. Returns a float64 scalar.
    Source: Gretton et al. 2012. The scale comes from y, the target, alone: the ruler does not depend on the model.
    """
    x, y = rows(x), rows(y)
    scale = median_distance(y)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = (distances(a, b) / scale).square()
        return torch.stack([(-square / (2 * h * h)).exp() for h in bandwidths]).mean(dim=0)

    return unbiased_mmd(kernel, x, y)


class EnergyDistance(TwoSample):
    """``energy`` with ``_floor``, ``_untranslated``, ``_n``: see :func:`energy_distance`."""

    def __init__(self, points: int = 4096, seed: int = 0) -> None:
        super().__init__("energy", points, seed)

    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"": energy_distance(x, y)}


class MMD(TwoSample):
    """``mmd`` with ``_floor``, ``_untranslated``, ``_n``: unbiased MMD², see :func:`mmd`."""

    def __init__(self, bandwidths: Sequence[float] = (0.25, 0.5, 1.0, 2.0), points: int = 4096, seed: int = 0) -> None:
        super().__init__("mmd", points, seed)
        self.bandwidths = tuple(bandwidths)

    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"": mmd(x, y, self.bandwidths)}
