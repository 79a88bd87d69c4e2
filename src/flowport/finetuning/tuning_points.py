"""Pairs of a fine-tuning: draws of a split, and held-out starts that are used once each."""

import torch

from flowport.distribution.base import Distribution
from flowport.randomness import Randomness
from flowport.types import Pair


def drawn(source: Distribution, target: Distribution, n: int, randomness: Randomness) -> Pair:
    """n independent draws of both sides; stored points are drawn with replacement.

    Args:
        source: A split of the source.
        target: The same split of the target.
        n: Number of points of each side.
        randomness: Of the draws.
    """
    return Pair(
        source.sample(n, randomness.generator("source")),
        target.sample(n, randomness.generator("target")),
    )


def held_out(source: Distribution, target: Distribution, n: int, randomness: Randomness) -> Pair:
    """At most n starts, each used once, as standard errors need, with targets whose labels are requested.

    Args:
        source: The test split of the source; of one with fewer than n points there are fewer starts.
        target: The test split of the target, which is gone through again where it has fewer points than starts.
        n: Number of starts, at most.
        randomness: Of the draws of analytic distributions.
    """
    starts = source.every(n, randomness.under("source"))
    targets = target.every(n, randomness.under("target"))
    again = torch.arange(len(starts), device=starts.x.device) % len(targets)
    return Pair(starts, targets[again])
