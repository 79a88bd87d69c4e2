"""Batches that the modules exchange: points, pairs of points, conditions of a network, and names of their shapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowport.tensors import over, to_device

Time = Float[Tensor, "b"]
Points = Float[Tensor, "b *d"]
Index = Int[Tensor, "b"]
EventShape = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """A batch of n points with their labels, masks and item numbers.

    Args:
        x: Points, (n, *D).
        label: Classes (n,) int64 or continuous values (n, k); None without labels.
        mask: Bool, (n, *D), False where a coordinate of x is padding; None where all coordinates are data.
        id: Item numbers in the stored data, (n,) int64; None for points that are not stored items.
    """

    x: Tensor
    label: Tensor | None = None
    mask: Tensor | None = None
    id: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Sample":
        """The sample with a function applied to every tensor that is present.

        Args:
            change: Function of one tensor, which must treat all rows alike.
        """
        return Sample(*(None if v is None else change(v) for v in (self.x, self.label, self.mask, self.id)))  # type: ignore[arg-type]

    def __getitem__(self, index: Tensor | slice) -> "Sample":
        return self.each(lambda v: v[index])

    def to(self, device: torch.device | str) -> "Sample":
        """The sample with all its tensors on a device.

        Args:
            device: The device.
        """
        return self.each(lambda v: to_device(v, device))

    def with_x(self, x: Tensor) -> "Sample":
        """The sample with other points and the same labels, masks and item numbers.

        Args:
            x: The new points, (n, *D).
        """
        return replace(self, x=x)


@dataclass(frozen=True)
class Pair:
    """Paired source and target points: row k is a draw (x0, x1) of the joint law of the coupling.

    Args:
        source: Source points x0, n rows.
        target: Target points x1, n rows.
        facts: What the coupling reported of the plan that the rows are from, by name; tensors stay on its device.
    """

    source: Sample
    target: Sample
    facts: Mapping[str, float | Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def mask(self) -> Tensor | None:
        """Coordinates that are data on both sides, (n, *D) bool, over which the loss is taken; None for all."""
        known = [side.mask for side in (self.source, self.target) if side.mask is not None]
        return known[0] & known[-1] if known else None

    def take(self, i: Tensor | slice, j: Tensor | slice) -> "Pair":
        """The re-paired points: source row i[k] with target row j[k], with labels, masks and ids, without facts.

        Args:
            i: Rows of the source, (k,) int64 or a slice.
            j: Rows of the target, as many.
        """
        return Pair(self.source[i], self.target[j])

    def to(self, device: torch.device | str) -> "Pair":
        """The pair with all its tensors on a device.

        Args:
            device: The device.
        """
        return replace(self, source=self.source.to(device), target=self.target.to(device))


@dataclass(frozen=True)
class Condition:
    """The inputs of a network besides x and t: label, start and step length.

    In a dropped row (classifier-free guidance) the class is −1 and floating-point values are NaN. All None is the
    condition of an unconditional network.

    Args:
        label: Classes (B,) int64 or continuous values (B, k); None without labels.
        source: Start x0 of the path, (B, *D); None where the network is not conditioned on it.
        step: Length d of the step over which the velocity is averaged (shortcut models), (B,); None for 0.

    References:
        Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598.
        Frans et al. 2024, "One Step Diffusion via Shortcut Models", arXiv:2410.12557.
    """

    label: Tensor | None = None
    source: Tensor | None = None
    step: Tensor | None = None

    def __getitem__(self, index: Tensor | slice) -> "Condition":
        return self.each(lambda v: v[index])

    def each(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        """The condition with a function applied to every tensor that is present.

        Args:
            change: Function of one tensor, which must treat all rows alike.
        """
        return Condition(*(None if v is None else change(v) for v in (self.label, self.source, self.step)))

    def dropped(self, rows: Tensor) -> "Condition":
        """The condition with label and source of some rows dropped: class −1, floating-point values NaN.

        Args:
            rows: The rows to drop, (B,) bool.
        """

        def hidden(v: Tensor) -> Tensor:
            return torch.where(over(rows, v), torch.nan if v.is_floating_point() else -1, v)

        return replace(Condition(self.label, self.source).each(hidden), step=self.step)


@dataclass(frozen=True)
class ConditionShape:
    """The kinds of ``Condition`` that a network must be built to accept.

    Args:
        classes: Number of classes of a class label, 0 for none.
        values: Width k of a continuous label, 0 for none.
        source: Whether the network is conditioned on the start x0.
        step: Whether the network is conditioned on the length of a step (shortcut models).
        droppable: Whether rows of x0 may be dropped, that is NaN.
    """

    classes: int = 0
    values: int = 0
    source: bool = False
    step: bool = False
    droppable: bool = False
