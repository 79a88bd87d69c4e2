"""What travels through the package: points, pairs of points, conditions, and the names of their shapes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowport.tensors import over, sent

Time = Float[Tensor, "b"]
Points = Float[Tensor, "b *d"]
Index = Int[Tensor, "b"]
EventShape = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """n points with what belongs to them.

    x: (n, *D) points; label: (n,) classes or (n, k) continuous values; id: (n,) item numbers; mask: (n, *D) bool, False
    where a number of x is padding.
    """

    x: Tensor
    label: Tensor | None = None
    mask: Tensor | None = None
    id: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Sample":
        """The sample with ``change`` applied to every tensor that is present."""
        return Sample(*(None if v is None else change(v) for v in (self.x, self.label, self.mask, self.id)))  # type: ignore[arg-type]

    def __getitem__(self, index: Tensor | slice) -> "Sample":
        return self.each(lambda v: v[index])

    def to(self, device: torch.device | str) -> "Sample":
        return self.each(lambda v: sent(v, device))

    def with_x(self, x: Tensor) -> "Sample":
        """The same items at other points."""
        return replace(self, x=x)


@dataclass(frozen=True)
class Pair:
    """Source points and target points; row k of one goes with row k of the other."""

    source: Sample
    target: Sample

    def __len__(self) -> int:
        return len(self.source)

    @property
    def mask(self) -> Tensor | None:
        """(n, *D) where both ends hold data, so that the way between them is known; None: everywhere."""
        known = [side.mask for side in (self.source, self.target) if side.mask is not None]
        return known[0] & known[-1] if known else None

    def take(self, i: Tensor | slice, j: Tensor | slice) -> "Pair":
        """Re-pair: source row i[k] with target row j[k], with labels, masks and ids."""
        return Pair(self.source[i], self.target[j])

    def to(self, device: torch.device | str) -> "Pair":
        return Pair(self.source.to(device), self.target.to(device))


@dataclass(frozen=True)
class Condition:
    """What a network is told beside x and t. label: (B,) classes or (B, k) values; source: (B, *D); a row that is not
    told has the class −1, or numbers that are NaN. step: (B,), how far the step reaches whose mean velocity is wanted;
    None for 0."""

    label: Tensor | None = None
    source: Tensor | None = None
    step: Tensor | None = None

    def __getitem__(self, index: Tensor | slice) -> "Condition":
        return self.each(lambda v: v[index])

    def each(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        """The condition with ``change`` applied to every tensor that is present."""
        return Condition(*(None if v is None else change(v) for v in (self.label, self.source, self.step)))

    def dropped(self, rows: Tensor) -> "Condition":
        """The same without what ``rows``, (B,) bool, are told."""

        def lost(v: Tensor) -> Tensor:
            return torch.where(over(rows, v), torch.nan if v.is_floating_point() else -1, v)

        return replace(Condition(self.label, self.source).each(lost), step=self.step)


@dataclass(frozen=True)
class ConditionShape:
    """What a network must be built to accept: class count, width of a continuous label, whether it sees x0, the length
    of a step, and whether rows of x0 may be missing."""

    classes: int = 0
    values: int = 0
    source: bool = False
    step: bool = False
    droppable: bool = False
