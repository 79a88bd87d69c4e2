"""How stored items are divided into train, validation and test: once, by a fixed seed, every class in proportion."""

import torch
from torch import Tensor

from flowport.randomness import Randomness

SEED = 0


def divide(
    n: int, validation: int, test: int, labels: Tensor | None = None, groups: Tensor | None = None
) -> dict[str, Tensor]:
    """Split name -> sorted item numbers; the three parts are disjoint and complete.

    labels (n,) int64: every part holds each class in proportion, up to one item. groups (n,) int64: items of one group
    (for instance identical images) go to one part; validation and test then count groups, each of its first item's
    class.
    """
    groups = torch.arange(n) if groups is None else groups
    first = torch.full((int(groups.max()) + 1,), n).scatter_reduce(0, groups, torch.arange(n), "amin")
    classes = torch.zeros(len(first), dtype=torch.long) if labels is None else labels[first]
    order = _interleaved(classes)
    bounds = {"test": order[:test], "validation": order[test : test + validation], "train": order[test + validation :]}
    part = torch.empty(len(first), dtype=torch.long)
    for k, chosen in enumerate(bounds.values()):
        part[chosen] = k
    parts = {name: (part[groups] == k).nonzero().squeeze(1) for k, name in enumerate(bounds)}
    return {name: parts[name] for name in ("train", "validation", "test")}


def _interleaved(classes: Tensor) -> Tensor:
    """A fixed random order of items of which every beginning holds each class in proportion: item k of a class of m, in
    random order, stands at (k + ½) / m."""
    generator = Randomness(SEED).generator("split")
    shuffled = torch.randperm(len(classes), generator=generator)
    by_class = shuffled[classes[shuffled].argsort(stable=True)]
    counts = classes.bincount()
    rank = torch.arange(len(classes)) - (counts.cumsum(0) - counts)[classes[by_class]]
    place = (rank + 0.5) / counts[classes[by_class]]
    return by_class[place.argsort(stable=True)]
