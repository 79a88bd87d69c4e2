"""Pairings: joint laws of source and target before any coupling.

References:
    Liu, Gong and Liu 2022, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        arXiv:2209.03003 (reflow, whose pairs are stored).
"""

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import torch

from flowport.cache import read_tensors, write_tensors
from flowport.data.agreement import paired_by_name, restricted_to_common_classes
from flowport.distribution.base import Distribution, Stored, positions, refuse_non_finite
from flowport.distribution.parts import stratified_split
from flowport.errors import Checked, FlowportError
from flowport.randomness import Randomness
from flowport.types import Pair, Sample


class Pairing(Checked, ABC):
    """A joint law p(x0, x1) of source and target, from which the points of a batch are drawn before the coupling.

    A member provides ``pairs`` and ``whole`` and sets ``independent``. ``pairs`` is a pure function of its arguments,
    so that training can resume at any position. A pairing is not changed after construction: ``split``, ``to`` and
    ``streamed_to`` return another one.

    To add a member: subclass this class in this module and add ``configs/pairing/<name>.yaml`` with ``_target_`` and
    ``_partial_: true``. Add it to ``JOINTS`` of tests/data/test_pairing.py.

    Args:
        source: Source distribution p0.
        target: Target distribution p1.

    Attributes:
        independent: Whether p(x0, x1) = p0(x0) p1(x1); a coupling may then re-pair the points.
        paired: Whether the pairs themselves are the data, so that no coupling may re-pair them.
        matched_classes: Whether both sides of every batch hold the same number of points of each class.

    Raises:
        FlowportError: When source and target points have different shapes.
    """

    independent: ClassVar[bool]
    paired: ClassVar[bool] = False
    matched_classes: ClassVar[bool] = False

    def __init__(self, source: Distribution, target: Distribution) -> None:
        if source.event_shape != target.event_shape:
            raise FlowportError(
                f"source and target must have one shape, but a source point is {source.event_shape} and a target "
                f"point is {target.event_shape}: choose distributions (or a size) that agree"
            )
        self.source, self.target = source, target

    @abstractmethod
    def pairs(self, start: int, n: int, randomness: Randomness) -> Pair:
        """Pairs start, …, start + n − 1 of the endless training stream.

        Args:
            start: Position in the stream of the first pair.
            n: Number of pairs.
            randomness: Randomness of the stream; the same one gives the same stream.
        """

    @abstractmethod
    def whole(self, randomness: Randomness) -> Pair:
        """The whole stored training set, not augmented, for a coupling that is solved once.

        Args:
            randomness: Randomness of the draws.

        Raises:
            FlowportError: When source or target is not stored.
        """

    def split(self, name: str) -> "Pairing":
        """The pairing of a split of both distributions.

        Args:
            name: Name of the split: train, validation or test.
        """
        return type(self)(self.source.split(name), self.target.split(name))

    def to(self, device: torch.device | str) -> "Pairing":
        """The pairing with all data of both distributions on a device.

        Args:
            device: The device.
        """
        return type(self)(self.source.to(device), self.target.to(device))

    def streamed_to(self, device: torch.device) -> "Pairing":
        """The pairing with its points made on a device; raw data stay where they are.

        Args:
            device: The device.
        """
        return type(self)(self.source.streamed_to(device), self.target.streamed_to(device))

    def stored_bytes(self) -> int:
        """Memory that the stored items of both distributions take, in bytes."""
        return self.source.stored_bytes() + self.target.stored_bytes()

    def _stored(self) -> tuple[int, int]:
        sizes = self.source.size, self.target.size
        if sizes[0] is None or sizes[1] is None:
            raise FlowportError(
                "data.pool=all solves the coupling over stored items, but source or target is an analytic law without "
                "end: write a number of minibatches instead, for instance data.pool=8"
            )
        return sizes[0], sizes[1]


class UnpairedPairing(Pairing):
    """The product law, p(x0, x1) = p0(x0) p1(x1)."""

    independent = True

    def pairs(self, start: int, n: int, randomness: Randomness) -> Pair:
        return Pair(
            self.source.items(start, n, randomness.under("source")),
            self.target.items(start, n, randomness.under("target")),
        )

    def whole(self, randomness: Randomness) -> Pair:
        n, m = self._stored()
        return Pair(self.source.every(n, randomness.under("source")), self.target.every(m, randomness.under("target")))


class ClassMatchedPairing(Pairing):
    """The class-conditional product law, p(x0, x1) = Σ_y p1(y) p0(x0 | y) p1(x1 | y).

    Classes are matched by name; items of classes that the other side does not have are left out, which is said. Classes
    follow the target: the law of the source is p0 reweighted by p1(y)/p0(y).

    Args:
        source: Source distribution with class labels.
        target: Target distribution with class labels.

    Raises:
        FlowportError: When the two sides have no classes, or none of the same name.
    """

    independent = False
    matched_classes = True

    def __init__(self, source: Distribution, target: Distribution) -> None:
        named = bool(source.class_names or target.class_names) and source.classes > 0 and target.classes > 0
        if named and isinstance(source, Stored) and isinstance(target, Stored):
            source, target = restricted_to_common_classes(source, target)
        super().__init__(source, target)
        if source.classes != target.classes or source.classes == 0:
            raise FlowportError(
                f"pairing=class_matched needs the same classes on both sides, but the source has {source.classes} "
                f"and the target {target.classes}: use pairing=unpaired and, for instance, coupling=exact"
            )

    def _matched(self, target: Sample, start: int, randomness: Randomness) -> Sample:
        assert target.label is not None
        return self.source.of_class(target.label, randomness.generator("matched source", start, target.label.device))

    def pairs(self, start: int, n: int, randomness: Randomness) -> Pair:
        target = self.target.items(start, n, randomness.under("target"))
        matched = self._matched(target, start, randomness)
        assert matched.id is not None  # drawn once more, this time augmented
        augmentation = randomness.under("source").generator("augmentation", start, matched.x.device)
        return Pair(self.source.draw(matched.id, augmentation), target)

    def whole(self, randomness: Randomness) -> Pair:
        _, m = self._stored()
        target = self.target.every(m, randomness.under("target"))
        return Pair(self._matched(target, 0, randomness), target)


class PairedPairing(Pairing):
    """The empirical law of paired data: files of the same relative path without suffix, else items of the same number.

    Args:
        source: Stored source data.
        target: Stored target data; where items have no names, as many with the same splits.

    Raises:
        FlowportError: When a side is not stored, the lengths or splits differ, or training draws random crops.
    """

    independent = False
    paired = True

    def __init__(self, source: Distribution, target: Distribution) -> None:
        named = isinstance(source, Stored) and isinstance(target, Stored) and bool(source.names and target.names)
        if named:
            source, target = paired_by_name(source, target)  # type: ignore[arg-type]
        super().__init__(source, target)
        if source.size is None or source.size != target.size:
            raise FlowportError(
                f"pairing=paired needs stored data of equal length, but the source has {source.size} items and the "
                f"target {target.size}: use pairing=unpaired"
            )
        if source.crops or target.crops:
            raise FlowportError(
                "pairing=paired needs the same piece of both sides, but training draws random pieces of long "
                "recordings: leave stored at its default"
            )
        if named:
            return
        if not torch.equal(source.items_of_part().cpu(), target.items_of_part().cpu()):
            raise FlowportError(
                "pairing=paired needs item k of the source beside item k of the target, but their splits differ "
                "(labels "
                "on one side only?): give both files the same labels, or none"
            )

    def pairs(self, start: int, n: int, randomness: Randomness) -> Pair:
        target = self.target.items(start, n, randomness.under("target"))
        assert target.id is not None
        # the same numbers as the target's, so that both views of an object are augmented alike
        generator = randomness.under("target").generator("augmentation", start, target.x.device)
        return Pair(self.source.draw(target.id, generator), target)

    def whole(self, randomness: Randomness) -> Pair:
        n, m = self._stored()
        return Pair(self.source.every(n, randomness), self.target.every(m, randomness))


class StoredPairing(Pairing):
    """The empirical law of stored pairs of encoded points, as written by translate or reflow.

    A tenth of the pairs is the validation split; pairs of the same source item are in the same split.

    Args:
        source: Source distribution, used for evaluation.
        target: Target distribution, used for evaluation.
        path: File of the pairs, .safetensors.

    Raises:
        FlowportError: When the file is missing or damaged, holds points of another shape, NaN or infinite values, or
            fewer than 10 pairs.
    """

    independent = False
    paired = True

    def __init__(self, source: Distribution, target: Distribution, path: str | None = None) -> None:
        super().__init__(source, target)
        self.rows = read_pairs(path)
        for name, side, law in (("source", self.rows.source, source), ("target", self.rows.target, target)):
            refuse_non_finite(f"the {name} of pairing.path={path}", side.x)
            if tuple(side.x.shape[1:]) != tuple(law.event_shape):
                raise FlowportError(
                    f"pairing.path={path} holds {name} points of shape {tuple(side.x.shape[1:])}, but a {name} "
                    f"point of "
                    f"this run is {law.event_shape}: use the source and target that the pairs were made with"
                )
        n = len(self.rows)
        if n < 10:
            raise FlowportError(
                f"pairing.path={path} holds {n} pairs; at least 10 are needed, a tenth of them for validation"
            )
        items = self.rows.source.id
        groups = None if items is None else items.unique(return_inverse=True)[1]
        tenth = (n if groups is None else int(groups.max()) + 1) // 10
        self.parts, self.device = stratified_split(n, max(tenth, 1), 0, groups=groups), torch.device("cpu")

    def split(self, name: str) -> "StoredPairing":
        """The pairs of a split, with that split of both distributions.

        Args:
            name: Name of the split: train or validation.

        Raises:
            FlowportError: When the pairs have no such split.
        """
        if len(self.parts.get(name, ())) == 0:
            raise FlowportError(f"stored pairs have no split called {name!r}: only train and validation")
        index = self.parts[name].to(self.rows.source.x.device)
        return self._with(self.source.split(name), self.target.split(name), self.rows.take(index, index), self.device)

    def to(self, device: torch.device | str) -> "StoredPairing":
        return self._with(self.source.to(device), self.target.to(device), self.rows.to(device), device)

    def streamed_to(self, device: torch.device) -> "StoredPairing":
        return self._with(self.source.streamed_to(device), self.target.streamed_to(device), self.rows, device)

    def _with(
        self, source: Distribution, target: Distribution, rows: Pair, device: torch.device | str
    ) -> "StoredPairing":
        other = copy(self)
        other.source, other.target, other.rows, other.device = source, target, rows, torch.device(device)
        return other

    def pairs(self, start: int, n: int, randomness: Randomness) -> Pair:
        row = positions(len(self.rows), start, n, randomness).to(self.rows.source.x.device)
        return self.rows.take(row, row).to(self.device)

    def whole(self, randomness: Randomness) -> Pair:
        return self.rows

    def stored_bytes(self) -> int:
        return super().stored_bytes() + sum(v.nbytes for v in tensors_of(self.rows).values())


def tensors_of(pair: Pair) -> dict[str, torch.Tensor]:
    """All tensors of a pair by names such as ``source.x`` and ``target.label``.

    Args:
        pair: Source and target points.
    """
    sides = {"source": pair.source, "target": pair.target}
    every = {f"{name}.{f.name}": getattr(side, f.name) for name, side in sides.items() for f in fields(Sample)}
    return {name: value for name, value in every.items() if value is not None}


def write_pairs(pair: Pair, path: Path) -> None:
    """Writes pairs of encoded points to a file that ``pairing=stored`` reads.

    Args:
        pair: Source and target points.
        path: File to write, .safetensors.
    """
    write_tensors(
        path, {name: value.cpu().clone() for name, value in tensors_of(pair).items()}, {}, checksum=True
    )  # unshared


def read_pairs(path: str | None) -> Pair:
    """The pairs that ``write_pairs`` wrote to a file.

    Args:
        path: File to read, .safetensors.

    Raises:
        FlowportError: When the file is missing, damaged or no file of pairs.
    """
    place = Path(path or "")
    held = read_tensors(place)
    lengths = set() if held is None else {value.shape[:1] for value in held[0].values()}
    if held is None or len(lengths) != 1 or () in lengths or not {"source.x", "target.x"} <= held[0].keys():
        found = "holds no pairs, or is damaged" if place.is_file() else "is not a file"
        raise FlowportError(f"pairing.path={path} {found}: give the pairs.safetensors that translate or reflow wrote")
    sides = ({f.name: held[0].get(f"{side}.{f.name}") for f in fields(Sample)} for side in ("source", "target"))
    return Pair(*(Sample(**side) for side in sides))  # type: ignore[arg-type]
