"""Division of stored items into train, validation and test: stratified by a fixed seed, or by their names alone."""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from flowport.randomness import Randomness

SEED = 0
HELD_OUT = {"test": 0.2, "validation": 0.05}
"""Shares of named items that are held out, see ``part_of``."""


def stratified_split(
    n: int,
    validation: int,
    test: int,
    labels: Tensor | None = None,
    groups: Tensor | None = None,
    names: list[str] | None = None,
) -> dict[str, Tensor]:
    """Disjoint and complete splits train, validation and test of n items, as sorted item numbers by name.

    Args:
        n: Number of items.
        validation: Number of validation items, or of groups where groups are given.
        test: Number of test items, or of groups.
        labels: Classes (n,) int64, each of which every split holds in proportion up to one item; None for no classes.
        groups: Group numbers (n,) int64; items of one group (for instance identical images) lie in one split, and a
            group has the class of its first item. None where every item is its own group.
        names: Names of the groups, whose hashes give the random order, so that equal names of two data sets lie in
            equal splits; None for an order of the groups' numbers.
    """
    groups = torch.arange(n) if groups is None else groups
    first = torch.full((int(groups.max()) + 1,), n).scatter_reduce(0, groups, torch.arange(n), "amin")
    classes = torch.zeros(len(first), dtype=torch.long) if labels is None else labels[first]
    order = _interleaved(classes, names)
    bounds = {"test": order[:test], "validation": order[test : test + validation], "train": order[test + validation :]}
    part = torch.empty(len(first), dtype=torch.long)
    for k, chosen in enumerate(bounds.values()):
        part[chosen] = k
    parts = {name: (part[groups] == k).nonzero().squeeze(1) for k, name in enumerate(bounds)}
    return {name: parts[name] for name in ("train", "validation", "test")}


def _interleaved(classes: Tensor, names: list[str] | None) -> Tensor:
    """A fixed random order of items, every initial part of which holds each class in proportion, (n,) int64.

    The k-th item (from 0) of a class of m, in random order, is sorted by (k + ½) / m.
    """
    if names is None:
        shuffled = torch.randperm(len(classes), generator=Randomness(SEED).generator("split"))
    else:
        hashes = [blake2b(name.encode(), digest_size=8).digest() for name in names]
        shuffled = torch.tensor(sorted(range(len(names)), key=lambda k: (hashes[k], names[k])))
    by_class = shuffled[classes[shuffled].argsort(stable=True)]
    counts = classes.bincount()
    rank = torch.arange(len(classes)) - (counts.cumsum(0) - counts)[classes[by_class]]
    place = (rank + 0.5) / counts[classes[by_class]]
    return by_class[place.argsort(stable=True)]


def part_of(name: str) -> str:
    """The split of an item, by a hash of its name: equal names lie in one split, in whichever data set they are.

    Args:
        name: The name.
    """
    share, low = int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) / 2**64, 0.0
    for part, width in HELD_OUT.items():
        low += width
        if share < low:
            return part
    return "train"


def split_by_name(names: Sequence[str]) -> dict[str, Tensor]:
    """The splits train, validation and test of named items, as sorted item numbers, see ``part_of``.

    Args:
        names: Names of the items.
    """
    parts = [part_of(name) for name in names]
    return {
        each: torch.tensor([k for k, own in enumerate(parts) if own == each], dtype=torch.long)
        for each in ("train", *reversed(HELD_OUT))
    }
