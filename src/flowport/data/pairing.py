"""How source and target arrive together, before any coupling."""

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import torch

from flowport.distribution.base import Distribution, positions, refuse_non_finite
from flowport.distribution.folder import keep, loaded
from flowport.distribution.parts import divide
from flowport.errors import FlowportError
from flowport.randomness import Randomness
from flowport.types import Pair, Sample


class Pairing(ABC):
    """independent: source and target are drawn independently of each other (a coupling may re-pair them).
    matched_classes: both sides of every batch hold the same number of points of each class.
    paired: the pairs themselves are the data, and no coupling may part them."""

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
        """n pairs from position ``start`` of the endless training stream: a pure function of its arguments."""

    @abstractmethod
    def whole(self, randomness: Randomness) -> Pair:
        """The whole stored training set, unaugmented, for a coupling that is solved once and kept."""

    def split(self, name: str) -> "Pairing":
        return type(self)(self.source.split(name), self.target.split(name))

    def to(self, device: torch.device | str) -> "Pairing":
        """Both distributions with all that they hold on a device."""
        return type(self)(self.source.to(device), self.target.to(device))

    def streamed_to(self, device: torch.device) -> "Pairing":
        """Both distributions with their points made on a device and their raw data left where they are."""
        return type(self)(self.source.streamed_to(device), self.target.streamed_to(device))

    def stored_bytes(self) -> int:
        """What the stored items of both sides take in memory."""
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
    """p(x0, x1) = p0(x0) p1(x1)."""

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
    """p(x0, x1) = Σ_y p1(y) p0(x0 | y) p1(x1 | y): the classes follow the target, the source is drawn to match.

    Where the class shares of the two sides differ, the source is reweighted by p1(y) / p0(y).
    """

    independent = False
    matched_classes = True

    def __init__(self, source: Distribution, target: Distribution) -> None:
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
    """Item k of the source belongs to item k of the target; a coupling must leave them together."""

    independent = False
    paired = True

    def __init__(self, source: Distribution, target: Distribution) -> None:
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
        if not torch.equal(source.items_of_part().cpu(), target.items_of_part().cpu()):
            raise FlowportError(
                "pairing=paired needs item k of the source beside item k of the target, but their splits differ "
                "(labels "
                "on one side only?): give both files the same labels, or none"
            )

    def pairs(self, start: int, n: int, randomness: Randomness) -> Pair:
        target = self.target.items(start, n, randomness.under("target"))
        assert target.id is not None
        generator = randomness.generator("paired source", start, target.x.device)
        return Pair(self.source.draw(target.id, generator), target)

    def whole(self, randomness: Randomness) -> Pair:
        n, m = self._stored()
        return Pair(self.source.every(n, randomness), self.target.every(m, randomness))


class StoredPairing(Pairing):
    """Pairs of encoded points in a file that translate or reflow wrote; source and target are what they are evaluated
    on.

    A tenth of them, all pairs of an item together, is kept for validation. Raises FlowportError for a file that is
    missing or
    damaged, for points of another shape, fewer than 10, NaN and infinity.
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
        self.parts, self.device = divide(n, max(tenth, 1), 0, groups=groups), torch.device("cpu")

    def split(self, name: str) -> "StoredPairing":
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
    """All that a pair holds, by names such as source.x and target.label."""
    sides = {"source": pair.source, "target": pair.target}
    every = {f"{name}.{f.name}": getattr(side, f.name) for name, side in sides.items() for f in fields(Sample)}
    return {name: value for name, value in every.items() if value is not None}


def write_pairs(pair: Pair, path: Path) -> None:
    """Pairs of encoded points as a file that ``pairing=stored`` reads: tensors only (.safetensors)."""
    keep(path, {name: value.cpu().clone() for name, value in tensors_of(pair).items()}, {})  # unshared


def read_pairs(path: str | None) -> Pair:
    """What ``write_pairs`` wrote. Raises FlowportError where it is missing or damaged."""
    place = Path(path or "")
    held = loaded(place)
    lengths = set() if held is None else {len(value) for value in held[0].values()}
    if held is None or len(lengths) != 1 or not {"source.x", "target.x"} <= held[0].keys():
        found = "holds no pairs, or is damaged" if place.is_file() else "is not a file"
        raise FlowportError(f"pairing.path={path} {found}: give the pairs.safetensors that translate or reflow wrote")
    sides = ({f.name: held[0].get(f"{side}.{f.name}") for f in fields(Sample)} for side in ("source", "target"))
    return Pair(*(Sample(**side) for side in sides))  # type: ignore[arg-type]
