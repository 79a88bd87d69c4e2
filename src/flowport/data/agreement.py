"""Agreement of two sides: modalities of one meaning, classes matched by name, partners in the same split."""

import logging
from collections import Counter

import torch
from torch import Tensor

from flowport.distribution.base import Distribution, Stored, item_keys
from flowport.errors import FlowportError

logger = logging.getLogger(__name__)
SHOWN = 6
"""Number of class names in a message."""


def agreed(source: Distribution, target: Distribution) -> tuple[Distribution, Distribution]:
    """Both sides with classes numbered by the names of the target's, and with partners in the same split.

    Classes that the target does not have come after those that it has. Partners are files of the same relative path
    without suffix; the target's item lies in the split of its partner in the source, so that both are held out or
    neither.

    Args:
        source: The source.
        target: The target.

    Raises:
        FlowportError: When both sides are of one kind but their coordinates mean different things.
    """
    check_modalities(source, target)
    if isinstance(source, Stored) and isinstance(target, Stored):
        source, target = _classes_by_name(source, target)
        target = _partners_together(source, target)
    return source, target


def check_modalities(source: Distribution, target: Distribution) -> None:
    """Check that coordinates of two sides of one kind mean the same.

    Args:
        source: The source.
        target: The target.

    Raises:
        FlowportError: Naming the option and its two values.
    """
    if type(source.modality) is not type(target.modality):
        return
    theirs = target.modality.meaning()
    for option, value in source.modality.meaning().items():
        if theirs[option] != value:
            raise FlowportError(
                f"source.modality.{option}={value} and target.modality.{option}={theirs[option]} differ, so that a "
                "coordinate of one side is not that of the other: give both sides the same"
            )


def class_names(side: Distribution) -> tuple[str, ...]:
    """The names of a side's classes, which are their numbers where they have no names.

    Args:
        side: The distribution.
    """
    return side.class_names or tuple(map(str, range(side.classes)))


def common_classes(source: Distribution, target: Distribution) -> list[str]:
    """The names of the classes of which both sides have items, in the order of the target's.

    Args:
        source: The source.
        target: The target.
    """
    held = set(_present(source))
    return [name for name in _present(target) if name in held]


def _present(side: Distribution) -> list[str]:
    """The names of the classes of which a side has items."""
    names = list(class_names(side))
    if not isinstance(side, Stored) or side.labels is None or not side.classes:
        return names
    return [names[k] for k in side.labels.unique().tolist()]


def _classes_by_name(source: Stored, target: Stored) -> tuple[Stored, Stored]:
    mine, theirs = class_names(source), class_names(target)
    named = source.class_names or target.class_names  # numbers alone are matched as they are
    if not named or not mine or not theirs or mine == theirs:
        return source, target
    common = set(mine) & set(theirs)
    alone = {"source": [n for n in mine if n not in common], "target": [n for n in theirs if n not in common]}
    if not common:
        logger.warning(
            "no class of the source (%s) has the name of one of the target (%s): classes are not matched",
            shortened(mine),
            shortened(theirs),
        )
    for side, own in alone.items():
        if common and own:
            logger.warning("%d classes of the %s alone: %s", len(own), side, shortened(own))
    names = (*theirs, *alone["source"])
    return source.relabelled([names.index(name) for name in mine], names), target


def shortened(names: list[str] | tuple[str, ...]) -> str:
    """Names for a message, at most ``SHOWN`` of them.

    Args:
        names: The names.
    """
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def partners(source: Stored, target: Stored) -> Tensor:
    """The raw item of the target that has the name of every raw item of the source, (N,) int64; −1 where none has.

    Args:
        source: The source.
        target: The target.
    """
    place = {key: k for k, key in enumerate(item_keys(target.names)) if key is not None}
    keys = item_keys(source.names) if source.names and target.names else [None] * len(source.raw)
    return torch.tensor([-1 if key is None else place.get(key, -1) for key in keys], dtype=torch.long)


def _partners_together(source: Stored, target: Stored) -> Stored:
    """The target with every partner of a source item in the split of that item."""
    found = partners(source, target)
    if not bool((found >= 0).any()):
        return target
    for side, stored in (("source", source), ("target", target)):
        double = sum(n > 1 for n in Counter(item_keys(stored.names)).values())
        if double:
            logger.warning("%s: names that differ in their suffix alone have no partner", side)
    have = int((found >= 0).sum())
    logger.info(
        "%d of %d source items and of %d target items have a partner of the same name, which lies in the same split",
        have,
        len(source.raw),
        len(target.raw),
    )
    part = torch.empty(len(target.raw), dtype=torch.long)
    names = list(target.splits)
    for k, name in enumerate(names):
        part[target.splits[name].cpu()] = k
    for k, name in enumerate(names):
        rows = found[source.splits[name].cpu()]
        part[rows[rows >= 0]] = k
    splits = {name: (part == k).nonzero().squeeze(1) for k, name in enumerate(names)}
    if any(len(rows) == 0 for rows in splits.values()):
        logger.warning("the target keeps its own splits, because those of its partners would leave one empty")
        return target
    return target.with_splits(splits)


def restricted_to_common_classes(source: Stored, target: Stored) -> tuple[Stored, Stored]:
    """Both sides without the items of classes that the other side does not have, numbered by the common names.

    Args:
        source: The source, with classes.
        target: The target, with classes.

    Raises:
        FlowportError: When no class is common, or a split has no item of a common class.
    """
    common = common_classes(source, target)
    if common == list(class_names(source)) == list(class_names(target)):
        return source, target
    if not common:
        raise FlowportError(
            f"pairing=class_matched needs classes of the same names on both sides, but the source has "
            f"{shortened(_present(source))} and the target {shortened(_present(target))}: give the class "
            "folders the same names, or use pairing=unpaired"
        )
    logger.warning("pairing=class_matched uses the %d common classes alone: %s", len(common), shortened(common))
    sides = []
    for side in (source, target):
        names = class_names(side)
        assert side.labels is not None
        keep = torch.tensor([name in common for name in names], device=side.labels.device)[side.labels]
        splits = {name: rows[keep[rows]] for name, rows in side.splits.items()}
        numbers = [common.index(name) if name in common else len(common) for name in names]
        made = side.with_splits(splits).relabelled(numbers, tuple(common))
        sides.append(made)
    return sides[0], sides[1]


def paired_by_name(source: Stored, target: Stored) -> tuple[Stored, Stored]:
    """Both sides with the items alone that have a partner, in one order, so that item k is paired with item k.

    Args:
        source: The source.
        target: The target.

    Raises:
        FlowportError: When no names are common.
    """
    found = partners(source, target)
    if not bool((found >= 0).any()):
        raise FlowportError(
            f"pairing=paired pairs files of the same relative path without suffix, but source and target have none in "
            f"common (the first are {source.names[0]} and {target.names[0]})"
        )
    have = int((found >= 0).sum())
    if have < max(len(source.raw), len(target.raw)):
        logger.warning(
            "pairing=paired uses the %d items that have a partner, of %d of the source and %d of the target",
            have,
            len(source.raw),
            len(target.raw),
        )
    kept = {name: rows[found[rows.cpu()].to(rows.device) >= 0] for name, rows in source.splits.items()}
    theirs = {name: found[rows.cpu()] for name, rows in kept.items()}
    return source.with_splits(kept), target.with_splits(theirs)
