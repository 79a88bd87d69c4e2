"""Whether a flow has learnt its target: how much of the way to the distance of real target points is left."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

DISTANCES = ("test/energy", "test/mmd", "test/sliced_w2", "test/w2")
"""Distances to the target by which a flow has learnt or not; the first one that was measured."""
REST, SLACK = 0.25, 1.1
"""A flow has learnt where this share of the way to the floor is left, or less, or below this multiple of the floor."""


class TargetDistance(NamedTuple):
    """The distance to the target by which a flow has learnt.

    Args:
        now: Of its translations.
        before: Of untranslated source points.
        floor: Of real target points.
        name: Of the distance, without its stage.
    """

    now: float
    before: float
    floor: float
    name: str


def has_learnt(numbers: Mapping[str, float]) -> bool:
    """Whether a flow has learnt its target.

    Of the way from the distance of untranslated source points to the floor, at most a quarter is left, or the distance
    is at most a tenth above the floor. Where no distance with a floor was measured, it counts as learnt.

    Args:
        numbers: Numbers of the run, by name.
    """
    known = distance_of(numbers)
    return known is None or known.now <= max(known.floor + REST * (known.before - known.floor), SLACK * known.floor)


def distance_of(numbers: Mapping[str, float]) -> TargetDistance | None:
    """The distance to the target by which a flow has learnt, that of untranslated points, and the floor.

    Args:
        numbers: Numbers of the run, by name.
    """
    for name in DISTANCES:
        floor, before = numbers.get(f"{name}_floor"), numbers.get(f"{name}_untranslated")
        if name in numbers and floor is not None and before is not None:
            return TargetDistance(numbers[name], before, floor, name.rpartition("/")[2])
    return None


def means_of(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The means of the numbers that all runs have.

    Args:
        runs: Numbers of every run, by name.
    """
    common = [name for name in runs[0] if all(name in run for run in runs)]
    return {name: math.fsum(run[name] for run in runs) / len(runs) for name in common}
