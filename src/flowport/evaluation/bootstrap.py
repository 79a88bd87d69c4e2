"""Means over items with errors by the bootstrap: whole groups of items are drawn again, for all settings alike.

References:
    Efron 1979, "Bootstrap methods: another look at the jackknife", doi:10.1214/aos/1176344552.
    Field and Welsh 2007, "Bootstrapping clustered data", doi:10.1111/j.1467-9868.2007.00593.x (groups are drawn).
    Hesterberg 2015, "What teachers should know about the bootstrap", doi:10.1080/00031305.2015.1089789 (the factor by
        which percentile intervals of few items are too narrow).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.stats import norm, t
from torch import Tensor

from flowport.errors import FlowportError
from flowport.randomness import Randomness

DRAWS = 4000
"""Number of resamples of an interval."""
CELLS = 2**24
"""Largest number of cells of a table of resamples; more items have fewer resamples."""
FEWEST = 200
"""Least number of resamples."""


@dataclass(frozen=True)
class Estimate:
    """A mean over items, its standard error and its interval.

    Args:
        mean: The mean.
        se: Its standard error; NaN for a single group, which has none.
        low: Lower end of the interval; NaN for a single group.
        high: Upper end.
        items: Number of items.
        groups: Number of groups that were resampled.
    """

    mean: float
    se: float
    low: float
    high: float
    items: int
    groups: int

    @property
    def differs(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def resampled_means(
    values: Float[Tensor, "n k"], group: Int[Tensor, "n"], draws: int, generator: torch.Generator
) -> Tensor:
    """Means of ``draws`` resamples of the groups with replacement, (draws, k) float64; all columns share a resample.

    A resample holds as many groups as there are, each with all its items, so its mean is Σ w_g s_g / Σ w_g n_g with the
    number w_g of times that a group was drawn, its sum s_g and its size n_g.

    Args:
        values: Values of every item, (n, k).
        group: Number of the group of every item, 0, …, G − 1, all of which occur, (n,).
        draws: Number of resamples.
        generator: Randomness of the resamples.
    """
    groups = int(group.max()) + 1
    sums = torch.zeros(groups, values.shape[1], dtype=torch.float64).index_add_(0, group, values.double())
    sizes = torch.bincount(group, minlength=groups).double()
    chosen = torch.randint(groups, (draws, groups), generator=generator)
    counts = torch.zeros(draws, groups, dtype=torch.float64).scatter_add_(1, chosen, torch.ones_like(chosen).double())
    return (counts @ sums) / (counts @ sizes)[:, None]


def numbered(groups: Sequence[str]) -> Tensor:
    """The number of the group of every item, (n,) int64, in the order in which the groups occur.

    Args:
        groups: The name of the group of every item.
    """
    place = {name: k for k, name in enumerate(dict.fromkeys(groups))}
    return torch.tensor([place[name] for name in groups], dtype=torch.long)


def estimate(values: Float[Tensor, "n"], groups: Sequence[str], level: float = 0.95) -> Estimate:
    """The mean of values with its bootstrap error over groups of items.

    The standard error is that of the resampled means times (G/(G − 1))^½ for G groups, which makes it s/√n for n groups
    of one item. The interval is that of percentiles, stretched about the mean by (G/(G − 1))^½ t/z, with the quantiles
    t of Student's law with G − 1 degrees of freedom and z of the normal one. The resamples depend on the groups alone:
    estimates over the same items are of the same resamples, so that a difference of two settings is estimated by the
    values' difference.

    Args:
        values: One finite value per item, (n,).
        groups: The name of the group of every item, for instance its file.
        level: Probability of the interval.

    Raises:
        FlowportError: Without items.
    """
    if len(values) == 0 or len(values) != len(groups):
        raise FlowportError(f"a mean over items needs items and their groups, found {len(values)} and {len(groups)}")
    group, mean = numbered(groups), float(values.double().mean())
    count = int(group.max()) + 1
    if count < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, len(values), count)
    draws = max(FEWEST, min(DRAWS, CELLS // count))
    means = resampled_means(values[:, None], group, draws, Randomness().generator("bootstrap over items"))[:, 0]
    few, tail = math.sqrt(count / (count - 1)), (1 - level) / 2
    stretch = few * float(t.ppf(1 - tail, count - 1) / norm.ppf(1 - tail))
    ends = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64))
    low, high = (mean + stretch * (float(end) - mean) for end in ends)
    return Estimate(mean, few * float(means.std(correction=0)), low, high, len(values), count)


def paired_difference(
    first: Float[Tensor, "n"], second: Float[Tensor, "n"], groups: Sequence[str], level: float = 0.95
) -> Estimate:
    """The mean of first − second over the same items, with its error: what both share cancels.

    Args:
        first: Values of one setting, (n,).
        second: Values of another one on the same items, (n,).
        groups: The name of the group of every item.
        level: Probability of the interval.
    """
    return estimate(first.double() - second.double(), groups, level)
