"""Distributions of source and target points, analytic or given by stored data, behind one interface.

``items(start, n, randomness)`` reads an endless stream and is a pure function of its arguments, so that a resumed run
draws the points of an uninterrupted one. Analytic distributions draw new points; stored data follow a new permutation
in every epoch.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from copy import copy
from functools import lru_cache

import torch
from torch import Tensor

from flowport.distribution.files import Files
from flowport.errors import Checked, FlowportError
from flowport.modality.base import Modality
from flowport.randomness import Randomness
from flowport.tensors import moved, to_device
from flowport.types import EventShape, Sample

DRAWN = 4096
"""Number of points of which a deviation is measured."""


class Distribution(Checked, ABC):
    """A probability distribution of points, from which training and evaluation draw.

    A member sets ``event_shape`` and ``modality`` and provides ``sample``, ``items``, ``every``, ``split`` and ``to``.
    Points are encoded, (n, *D), with the same shape and the same kind of label in every split. All draws are pure
    functions of their arguments. A distribution is not changed after construction: ``split``, ``to`` and the like
    return another one.

    Attributes:
        event_shape: Shape D of one encoded point.
        modality: How raw data become points and how points are shown.
        classes: Number of classes of a class label, 0 without class labels.
        class_names: Their names, empty where classes are numbers.
        label_width: Width k of a continuous label (n, k), 0 without continuous labels.
        size: Number of stored items of this split, None for an analytic distribution.
        standard_gaussian: Whether the distribution is exactly N(0, I).
        device: Device on which points are made.
        crops: Whether training draws another piece of an item each time.
        label_is_pitch: Whether labels are octaves above 440 Hz, (n, 1).

    To add a member: subclass ``AnalyticDistribution``, ``Density`` or ``Stored`` in a new module of this folder, export
    it in ``__init__.py``, add ``configs/distribution/<name>.yaml`` with ``_target_`` and list it in ``DISTRIBUTIONS``
    of tests/zoo.py and in ``PROMISED`` of tests/distribution/test_config.py.
    """

    event_shape: EventShape
    modality: Modality
    classes: int = 0
    class_names: tuple[str, ...] = ()
    label_width: int = 0
    size: int | None = None
    standard_gaussian: bool = False
    device: torch.device = torch.device("cpu")
    crops: bool = False
    label_is_pitch: bool = False

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Sample:
        """Independent draws; from stored data with replacement.

        Args:
            n: Number of points.
            generator: Source of randomness, on any device.
        """

    @abstractmethod
    def items(self, start: int, n: int, randomness: Randomness) -> Sample:
        """Items start, …, start + n − 1 of the endless training stream, augmented where the modality augments.

        Args:
            start: Position in the stream of the first item.
            n: Number of items.
            randomness: Randomness of the stream; the same one gives the same stream.
        """

    @abstractmethod
    def every(self, n: int, randomness: Randomness) -> Sample:
        """Points for evaluation, never augmented: stored items in order, an analytic distribution n draws.

        Of a split with more than n items, n are taken at even spacing, because files are often ordered by class. No
        item is repeated, so fewer than n are returned where the split has fewer.

        Args:
            n: Number of points, at most.
            randomness: Randomness of the draws of an analytic distribution; stored data do not use it.
        """

    def draw(self, index: Tensor, generator: torch.Generator | None) -> Sample:
        """Stored items of this split by their numbers, which become the ids of the sample.

        Args:
            index: Item numbers, (n,) int64 in [0, size).
            generator: Randomness of the augmentation; None for no augmentation.

        Raises:
            FlowportError: When the distribution is analytic and has no stored items.
        """
        raise FlowportError(
            f"{type(self).__name__} is a law, not a set of stored items; draw fresh points from it instead"
        )

    def items_of_part(self) -> Tensor:
        """Indices of this split's items among all raw items, (size,) int64.

        Raises:
            FlowportError: When the distribution is analytic and has no stored items.
        """
        raise FlowportError(f"{type(self).__name__} is a law, not a set of stored items")

    def of_class(self, labels: Tensor, generator: torch.Generator) -> Sample:
        """One point of each requested class, in the order of the request.

        Args:
            labels: Requested classes, (n,) int64.
            generator: Randomness of the choice within a class.

        Raises:
            FlowportError: When the distribution cannot draw points of a given class.
        """
        raise FlowportError(
            f"{type(self).__name__} cannot draw points of a wanted class; matched classes need labelled data"
        )

    def deviation(self) -> float:
        """The standard deviation of the coordinates of points about their common mean, of ``DRAWN`` draws."""
        points = self.sample(DRAWN, torch.Generator().manual_seed(0))
        x = points.x.double() if points.mask is None else points.x[points.mask.expand_as(points.x)].double()
        return float(x.std())

    def corresponds(self, other: "Distribution") -> bool:
        """Whether both splits have the same size and item k of both is a view of the same object (paired data).

        Args:
            other: The distribution to compare with.
        """
        return False

    def observed(self) -> "Distribution":
        """The same distribution in the space in which points are measured and drawn (``Modality.observed``)."""
        return self

    def encoded_by(self, modality: Modality) -> "Distribution":
        """The same distribution with another modality.

        Args:
            modality: The new modality, which must give points of the same shape.
        """
        other = copy(self)
        other.modality = modality.to(self.device)
        return other

    @abstractmethod
    def split(self, name: str) -> "Distribution":
        """One split of the data; for an analytic distribution every split is the distribution itself.

        Args:
            name: ``"train"``, ``"validation"`` or ``"test"``.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> "Distribution":
        """The same distribution with all its tensors on a device.

        Args:
            device: Where its tensors lie and its points are made.
        """

    def streamed_to(self, device: torch.device | str) -> "Distribution":
        """The same distribution with its points made on a device; raw items of stored data stay where they are.

        Args:
            device: Where points are made.
        """
        return self.to(device)

    def stored_bytes(self) -> int:
        """Memory that the stored items take, in bytes; 0 for an analytic distribution."""
        return 0


class AnalyticDistribution(Distribution):
    """A distribution given by a sampler, every draw of which is a new point.

    A member sets ``event_shape`` and ``modality`` and provides ``sample``; with tensors of its own also ``to``.

    To add a member: see ``Distribution``.
    """

    def items(self, start: int, n: int, randomness: Randomness) -> Sample:
        return self.sample(n, randomness.generator("items", start, self.device))

    def every(self, n: int, randomness: Randomness) -> Sample:
        return self.sample(n, randomness.generator("every"))

    def split(self, name: str) -> "AnalyticDistribution":
        return self

    def to(self, device: torch.device | str) -> "AnalyticDistribution":
        other = moved(self, device)
        other.device, other.modality = torch.device(device), self.modality.to(device)
        return other


class Density(AnalyticDistribution):
    """An analytic distribution with a density p and a score ∇ log p in closed form.

    A member provides ``sample``, ``log_prob`` and ``score``, where ``score`` is the gradient of ``log_prob`` and
    exp(log_prob) integrates to 1.

    To add a member: see ``Distribution``.
    """

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density log p(x) in nats, (n,).

        Args:
            x: Points, (n, *D).
        """

    @abstractmethod
    def score(self, x: Tensor) -> Tensor:
        """Score ∇ log p(x), (n, *D).

        Args:
            x: Points, (n, *D).
        """


class Stored(Distribution):
    """The empirical distribution of raw items in memory, which the modality encodes when they are drawn.

    A member loads its raw data and passes them to this constructor. One that draws a part of an item only, such as a
    crop of a recording, overrides ``taken``.

    Args:
        name: Name of the data set in error messages.
        raw: Raw items, (N, …).
        labels: Classes (N,) int64, continuous values (N, k) float, or None.
        modality: Encodes raw items as points.
        splits: Indices of raw items, (n,) int64, of every split by its name.
        part: Name of the split that this distribution shows.
        classes: Number of classes, 0 where labels are not classes.
        class_names: Their names, empty where classes are numbers.
        names: Names of the items, relative paths of files with ``#k`` for the k-th further piece of one file; empty
            where items have none.
        files: How files of these data are read and written; None where they are no files.

    Raises:
        FlowportError: When the split is unknown or empty, labels and items differ in number, raw data are not finite,
            or the modality refuses them.

    To add a member: see ``Distribution``.
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
        class_names: tuple[str, ...] = (),
        names: tuple[str, ...] = (),
        files: Files | None = None,
    ) -> None:
        if labels is not None and len(labels) != len(raw):
            raise FlowportError(f"{name} has {len(raw)} items but {len(labels)} labels; every item needs one label")
        refuse_non_finite(name, raw)
        modality.accept(name, raw)
        self.name, self.raw, self.labels, self.modality, self.splits = name, raw, labels, modality, splits
        self.classes, self.class_names, self.names, self.files = classes, class_names, names, files
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
        index = to_device(index, self.index.device)
        at = self.index[index]
        labels = None if self.labels is None else to_device(self.labels[at], self.device)
        raw, mask = self.taken(at, generator)
        x = self.modality.encode(to_device(raw, self.device), generator)
        valid = None if mask is None else to_device(mask, self.device).expand_as(x)
        return Sample(x, labels, valid, to_device(index, self.device))

    def taken(self, at: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
        """Raw items as they are encoded, and a mask of what is data rather than padding.

        The default returns whole items. A member whose items are longer than a point chooses a part of each here.

        Args:
            at: Indices into ``raw``, (n,) int64, on the device of ``raw``.
            generator: Randomness of the choice; None for a fixed choice.

        Returns:
            The raw items (n, …) and a bool mask that broadcasts to their points (None: all is data), both on the device
            of ``raw``.
        """
        return self.raw[at], None

    def items_of_part(self) -> Tensor:
        return self.index

    def corresponds(self, other: Distribution) -> bool:
        """Whether both splits list files of the same names in the same order.

        Args:
            other: The distribution to compare with.
        """
        if not (isinstance(other, Stored) and self.names and other.names and self.size == other.size):
            return False
        theirs, mine = item_keys(other.names), item_keys(self.names)
        rows = zip(self.index.tolist(), other.index.tolist(), strict=True)
        return all(mine[i] == theirs[j] and mine[i] is not None for i, j in rows)

    def with_splits(self, splits: dict[str, Tensor]) -> "Stored":
        """The same data with another division into splits.

        Args:
            splits: Indices of raw items, (n,) int64, of every split by its name.

        Raises:
            FlowportError: When the split that this distribution shows is empty.
        """
        other = copy(self)
        other.splits = {name: index.to(self.index.device) for name, index in splits.items()}
        other._choose(self.part)
        return other

    def relabelled(self, numbers: Sequence[int], class_names: tuple[str, ...]) -> "Stored":
        """The same data with other numbers of its classes.

        Args:
            numbers: The new number of every class, in the order of the old ones.
            class_names: Names of all classes by their new numbers.
        """
        assert self.labels is not None
        other = copy(self)
        other.labels = torch.tensor(numbers, device=self.labels.device)[self.labels]
        other.classes, other.class_names = len(class_names), class_names
        return other

    def classifier_dataset(self) -> "Stored":
        """The labelled data set on which a classifier of these points is trained, by default this one."""
        return self

    def of_class(self, labels: Tensor, generator: torch.Generator) -> Sample:
        """One item of each requested class; within a class the numbers of uses of two items differ by at most one.

        Args:
            labels: Requested classes, (n,) int64.
            generator: Randomness of the order within a class.

        Raises:
            FlowportError: When the data have no class labels or the split has no item of a requested class.
        """
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
        """Item numbers of this split at stream positions start, …, start + n − 1, (n,) int64.

        Args:
            start: First position in the stream.
            n: Number of positions.
            randomness: Randomness of the stream.
        """
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
        other.device, other.modality = torch.device(device), self.modality.to(device)
        return other

    def to(self, device: torch.device | str) -> "Stored":
        other = copy(self)
        other.device, other.modality = torch.device(device), self.modality.to(device)
        other.raw = self.raw.to(device)
        other.labels = None if self.labels is None else self.labels.to(device)
        other.splits = {name: index.to(device) for name, index in self.splits.items()}
        other._choose(self.part)
        return other


def item_keys(names: Sequence[str]) -> list[str | None]:
    """What identifies items across data sets: their names without suffix; None for a name that occurs twice.

    Args:
        names: Relative paths, with ``#k`` for further pieces of one file.
    """
    keys = [re.sub(r"\.[^./#]*(#\d+)?$", r"\1", name) for name in names]
    counts = Counter(keys)
    return [key if counts[key] == 1 else None for key in keys]


@lru_cache(maxsize=4)  # the epochs in which source and target are
def _permutation(size: int, seed: int) -> Tensor:
    """The random permutation of an epoch, which all batches of the epoch share, (size,) int64."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def positions(size: int, start: int, n: int, randomness: Randomness) -> Tensor:
    """Item numbers at stream positions start, …, start + n − 1, (n,) int64: a new random permutation in every epoch.

    Args:
        size: Number of items, the length of an epoch.
        start: First position in the stream.
        n: Number of positions.
        randomness: Randomness of the permutations.
    """
    pieces, at = [], start
    while at < start + n:
        epoch, offset = divmod(at, size)
        order = _permutation(size, randomness.number("order", epoch))
        pieces.append(order[offset : offset + start + n - at])
        at += len(pieces[-1])
    return torch.cat(pieces)


def refuse_non_finite(name: str, raw: Tensor) -> None:
    """Refuses raw data with NaN or infinite values; the message counts them and names the first row.

    Args:
        name: Name of the data set in the message.
        raw: Raw items, (N, …).

    Raises:
        FlowportError: When a value is NaN or infinite.
    """
    bad = ~raw.isfinite().flatten(1).all(1) if raw.is_floating_point() else torch.zeros(1, dtype=torch.bool)
    if bad.any():
        values = int((~raw.isfinite()).sum())
        raise FlowportError(
            f"{name} holds {values} NaN or infinite values in {int(bad.sum())} of {len(raw)} rows, the first "
            f"in row {int(bad.nonzero()[0])}; every value must be finite"
        )
