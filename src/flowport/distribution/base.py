"""Distributions: where points live, analytic or measured, through one door.

``items(start, n, randomness)`` is an endless stream: a pure function of its arguments, so that a resumed run draws
what an unbroken one would have drawn. Analytic laws draw fresh points; stored data walk a new permutation each epoch.
"""

from abc import ABC, abstractmethod
from copy import copy

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.modality.base import Modality
from flowport.randomness import Randomness
from flowport.tensors import sent
from flowport.types import EventShape, Sample


class Distribution(ABC):
    """event_shape: shape D of one encoded point. classes: number of labels, 0 without. label_width: width of a
    continuous label, 0 without. size: number of stored items, None for an analytic law. crops: whether training sees
    another piece of an item each time. label_is_pitch: whether labels are octaves above 440 Hz, (n, 1). device: where
    points are made."""

    event_shape: EventShape
    modality: Modality
    classes: int = 0
    label_width: int = 0
    size: int | None = None
    standard_gaussian: bool = False
    device: torch.device = torch.device("cpu")
    crops: bool = False
    label_is_pitch: bool = False

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Sample:
        """n independent draws (stored data: with replacement)."""

    @abstractmethod
    def items(self, start: int, n: int, randomness: Randomness) -> Sample:
        """Items start … start+n−1 of the endless training stream."""

    @abstractmethod
    def every(self, n: int, randomness: Randomness) -> Sample:
        """For evaluation: stored data once each and in order (at most n, spread evenly over the
        split, for files often lie in order of their classes), analytic laws n draws; never augmented."""

    def draw(self, index: Tensor, generator: torch.Generator | None) -> Sample:
        """Stored items by number. Raises FlowportError for an analytic law, which has none."""
        raise FlowportError(
            f"{type(self).__name__} is a law, not a set of stored items; draw fresh points from it instead"
        )

    def items_of_part(self) -> Tensor:
        """Which raw items this split holds, (size,) int64. Raises FlowportError for an analytic law, which has none."""
        raise FlowportError(f"{type(self).__name__} is a law, not a set of stored items")

    def of_class(self, labels: Tensor, generator: torch.Generator) -> Sample:
        """One item of each wanted class. Raises FlowportError for a law that cannot choose the class."""
        raise FlowportError(
            f"{type(self).__name__} cannot draw points of a wanted class; matched classes need labelled data"
        )

    def corresponds(self, other: "Distribution") -> bool:
        """Whether this split and the other's are equally long and item k of both is a view of one thing."""
        return False

    def observed(self) -> "Distribution":
        """The same law in the space in which metrics and pictures see its points (``Modality.observed``)."""
        return self

    def encoded_by(self, modality: Modality) -> "Distribution":
        """The same distribution with another modality, which must give points of the same shape."""
        other = copy(self)
        other.modality = modality
        return other

    @abstractmethod
    def split(self, name: str) -> "Distribution":
        """The part called train, validation or test; an analytic law is all of them."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Distribution":
        """The same distribution with its tensors on a device."""

    def streamed_to(self, device: torch.device | str) -> "Distribution":
        """The same distribution with its points made on a device; stored data leave their raw items where they are."""
        return self.to(device)

    def stored_bytes(self) -> int:
        """What its stored items take in memory; 0 for an analytic law."""
        return 0


class AnalyticDistribution(Distribution):
    """A law that can be sampled without end. Members write ``sample`` only; with tensors of their own also ``to``."""

    def items(self, start: int, n: int, randomness: Randomness) -> Sample:
        return self.sample(n, randomness.generator("items", start, self.device))

    def every(self, n: int, randomness: Randomness) -> Sample:
        return self.sample(n, randomness.generator("every", 0, self.device))

    def split(self, name: str) -> "AnalyticDistribution":
        return self

    def to(self, device: torch.device | str) -> "AnalyticDistribution":
        moved = copy(self)
        moved.device = torch.device(device)
        return moved


class Density(AnalyticDistribution):
    """A law whose density is known in closed form."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats: (n, *D) -> (n,)."""

    @abstractmethod
    def score(self, x: Tensor) -> Tensor:
        """∇ log p(x): (n, *D) -> (n, *D)."""


class Stored(Distribution):
    """Raw items in memory, encoded by their modality when they are drawn. Members only say where raw data come from.

    raw: (N, …) tensor; labels: (N,) int64 classes, (N, k) float values or None.
    splits: name -> (n,) indices of raw. Raises FlowportError where a split is unknown or empty, labels and items
    differ in
    number, or data are not finite.
    """

    size: int

    def __init__(
        self,
        name: str,
        raw: Tensor,
        labels: Tensor | None,
        modality: Modality,
        splits: dict[str, Tensor],
        part: str = "train",
        classes: int = 0,
    ) -> None:
        if labels is not None and len(labels) != len(raw):
            raise FlowportError(f"{name} has {len(raw)} items but {len(labels)} labels; every item needs one label")
        refuse_non_finite(name, raw)
        modality.accept(name, raw)
        self.name, self.raw, self.labels, self.modality, self.splits = name, raw, labels, modality, splits
        self.classes = classes
        self.label_width = labels.shape[1] if labels is not None and labels.ndim == 2 else 0
        self._choose(part)
        first = torch.zeros(1, dtype=torch.long, device=raw.device)
        self.event_shape = tuple(modality.encode(self.taken(first, None)[0], None).shape[1:])

    def _choose(self, part: str) -> None:
        if part not in self.splits:
            raise FlowportError(f"{self.name} has no split called {part!r}; it has {', '.join(self.splits)}")
        if len(self.splits[part]) == 0:
            raise FlowportError(f"the {part} split of {self.name} is empty: {len(self.raw)} items are too few")
        self.part, self.index = part, self.splits[part]
        self.size = len(self.index)

    def draw(self, index: Tensor, generator: torch.Generator | None) -> Sample:
        """Items of this split by number, (n,) int64, which becomes their id; augmented iff a generator is given."""
        at = self.index[sent(index, self.index.device)]
        labels = None if self.labels is None else sent(self.labels[at], self.device)
        raw, mask = self.taken(at, generator)
        x = self.modality.encode(sent(raw, self.device), generator)
        valid = None if mask is None else sent(mask, self.device).expand_as(x)
        return Sample(x, labels, valid, sent(index, self.device))

    def taken(self, at: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
        """Raw items by their place in ``raw``, and a mask, broadcastable to their points, of what holds data (None:
        everything), where ``raw`` lies. Members that keep more of an item than a point shows choose here, at random
        iff a generator is given."""
        return self.raw[at], None

    def items_of_part(self) -> Tensor:
        return self.index

    def classifier_dataset(self) -> "Stored":
        """The labelled dataset whose classifier reads points of this one; itself unless a member says otherwise."""
        return self

    def of_class(self, labels: Tensor, generator: torch.Generator) -> Sample:
        """For each wanted class in labels (n,), an item of that class; within a class every item is used equally
        often, up to one. Raises FlowportError where a class has no item."""
        if self.labels is None or self.classes == 0:
            raise FlowportError(f"{self.name} has no class labels, so classes cannot be matched")
        own, chosen = self.labels[self.index].cpu(), torch.empty(len(labels), dtype=torch.long)
        for c in labels.cpu().unique():
            slots, items = (labels.cpu() == c).nonzero().squeeze(1), (own == c).nonzero().squeeze(1)
            if len(items) == 0:
                raise FlowportError(f"the {self.part} split of {self.name} has no item of class {int(c)}")
            rounds = -(-len(slots) // len(items))
            order = torch.cat(
                [
                    items[torch.randperm(len(items), generator=generator, device=generator.device).cpu()]
                    for _ in range(rounds)
                ]
            )
            chosen[slots] = order[: len(slots)]
        return self.draw(chosen, None)

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        index = torch.randint(len(self.index), (n,), generator=generator, device=generator.device)
        return self.draw(index, None)

    def positions(self, start: int, n: int, randomness: Randomness) -> Tensor:
        """(n,) item numbers of this split at stream positions start…"""
        return positions(len(self.index), start, n, randomness)

    def items(self, start: int, n: int, randomness: Randomness) -> Sample:
        generator = randomness.generator("augmentation", start, self.device)
        return self.draw(self.positions(start, n, randomness), generator)

    def every(self, n: int, randomness: Randomness) -> Sample:
        size = len(self.index)
        return self.draw(torch.arange(min(n, size)) * size // min(n, size), None)

    def split(self, name: str) -> "Stored":
        other = copy(self)
        other._choose(name)
        return other

    def observed(self) -> "Stored":
        surface = self.modality.surface()
        if surface is self.modality:
            return self
        other = copy(self)
        other.modality, other.event_shape = surface, tuple(surface.encode(self.raw[:1], None).shape[1:])
        return other

    def stored_bytes(self) -> int:
        return self.raw.nbytes + (0 if self.labels is None else self.labels.nbytes)

    def streamed_to(self, device: torch.device | str) -> "Stored":
        other = copy(self)
        other.device = torch.device(device)
        return other

    def to(self, device: torch.device | str) -> "Stored":
        other = copy(self)
        other.device = torch.device(device)
        other.raw = self.raw.to(device)
        other.labels = None if self.labels is None else self.labels.to(device)
        other.splits = {name: index.to(device) for name, index in self.splits.items()}
        other._choose(self.part)
        return other


def positions(size: int, start: int, n: int, randomness: Randomness) -> Tensor:
    """(n,) numbers of items at stream positions start…: a fresh permutation of all ``size`` for every epoch."""
    pieces, at = [], start
    while at < start + n:
        epoch, offset = divmod(at, size)
        order = torch.randperm(size, generator=randomness.generator("order", epoch))
        pieces.append(order[offset : offset + start + n - at])
        at += len(pieces[-1])
    return torch.cat(pieces)


def refuse_non_finite(name: str, raw: Tensor) -> None:
    """Raises FlowportError where raw (N, …) holds NaN or infinity: says how many and the first row."""
    bad = ~raw.isfinite().flatten(1).all(1) if raw.is_floating_point() else torch.zeros(1, dtype=torch.bool)
    if bad.any():
        values = int((~raw.isfinite()).sum())
        raise FlowportError(
            f"{name} holds {values} NaN or infinite values in {int(bad.sum())} of {len(raw)} rows, the first "
            f"in row {int(bad.nonzero()[0])}; every value must be finite"
        )
