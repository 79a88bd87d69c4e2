"""The contract of a modality: how raw data are encoded as points x, decoded and drawn."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowport.errors import Checked
from flowport.modality.picture import short
from flowport.tensors import moved


@dataclass(frozen=True)
class Sound:
    """Waveforms to play.

    Args:
        waves: Waveforms, (n, T) int16.
        rate: Samples per second, Hz.
    """

    waves: Tensor
    rate: int


@dataclass(frozen=True)
class Vertices:
    """Coloured point clouds to display.

    Args:
        points: Coordinates, (n, N, 3) float32.
        colours: RGB colours, (n, N, 3) uint8.
    """

    points: Tensor
    colours: Tensor


class Modality(Checked, ABC):
    """An encoding of raw data as points x of a vector space, with its inverse and a way to draw points.

    A member provides ``encode``, ``decode`` and ``render``. ``encode`` and ``decode`` are batched and run on the device
    of their input; ``encode`` without a generator is deterministic and treats every item by itself.

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py`` and name it with
    ``_target_`` under ``modality`` of a config of configs/distribution; a modality that several distributions share may
    have a ``configs/modality/<name>.yaml`` with ``_target_``. Tests belong to tests/modality.

    Attributes:
        shown: Number of points that a picture shows well.
    """

    shown: ClassVar[int] = 16

    def accept(self, name: str, raw: Tensor) -> None:
        """Checks once that every item of a data set can be encoded; the default accepts all.

        Args:
            name: Name of the data set in messages.
            raw: All raw items, (N, …).

        Raises:
            FlowportError: When an item cannot be encoded.
        """
        return

    @abstractmethod
    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        """The points of raw items, (n, *D) float32.

        Args:
            raw: Raw items, (n, …).
            generator: Randomness of the augmentation; None for no augmentation and a deterministic result.

        Raises:
            FlowportError: When the raw items have another type or shape than the modality encodes.
        """

    def dequantised(self, raw: Tensor, generator: torch.Generator) -> tuple[Tensor, float | None]:
        """Points drawn uniformly from the quantisation cells of raw items, and the log-volume of a cell.

        Quantised data have no density. With x uniform in the cell of raw, E log p(x) + log volume ≤ log P(raw) by
        Jensen's inequality. The default is for data that are not quantised: x = encode(raw) and None.

        Args:
            raw: Raw items, (n, …).
            generator: Randomness of the draw.

        Returns:
            Points (n, *D), not augmented, and the natural logarithm of the volume of the cell of one point, or None.

        References:
            Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models", arXiv:1511.01844.
        """
        return self.encode(raw, None), None

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """The raw items of points, (n, …), the inverse of ``encode`` unless the class states otherwise.

        Args:
            x: Points, (n, *D).
        """

    @abstractmethod
    def render(self, rows: dict[str, Tensor], path: str, unrelated: Collection[str] = ()) -> Tensor:
        """One picture of several rows of points, written to a file and returned as (3, H, W) uint8.

        Args:
            rows: Points (n, *D) of every row by its label.
            path: File to write, .png; missing folders are created.
            unrelated: Labels of the rows whose items are not those of the first row, such as real targets beside a
                source and its translation.

        Raises:
            FlowportError: When there is no row or a row has no point.
        """

    def sheet(self, rows: dict[str, Tensor], numbers: Mapping[str, Tensor], path: str) -> Tensor:
        """The picture of ``render`` with the number of every item under it, (3, H, W) uint8.

        The default is for modalities whose pictures have no place for it: the mean number stands beside a row's label.

        Args:
            rows: Points (n, *D) of every row by its label.
            numbers: A number of every item, for instance its reward, (n,), of some of the rows by their labels.
            path: File to write, .png; missing folders are created.

        Raises:
            FlowportError: As ``render``.
        """
        means = {name: f"{name} ({short(float(value.mean()))})" for name, value in numbers.items()}
        return self.render({means.get(name, name): row for name, row in rows.items()}, path)

    def observed(self, x: Tensor) -> Tensor:
        """The points in the space of metrics and pictures: decoded where they are latents, else unchanged.

        Args:
            x: Points, (n, *D).
        """
        return x

    def embedded(self, x: Tensor) -> Tensor:
        """The inverse of ``observed``: latents where the modality has them, else the points unchanged.

        Args:
            x: Points in the space of metrics and pictures.
        """
        return x

    def surface(self) -> "Modality":
        """The modality of the points that ``observed`` returns."""
        return self

    def codec(self) -> nn.Module | None:
        """The frozen network of ``encode`` and ``decode``, whose weights are saved with the flow; None without one."""
        return None

    def to(self, device: torch.device | str) -> "Modality":
        """The same modality with its constants on a device, so that no batch there copies them anew.

        Points and raw items of any device are encoded and decoded all the same.

        Args:
            device: The device.
        """
        return moved(self, device)

    def meaning(self) -> dict[str, Any]:
        """Options that give coordinates their meaning, which two sides of one kind must share, by name."""
        return {}

    def unmeasured(self) -> tuple[str, ...]:
        """Names of the options that are null, to be measured on the training data by flowport.data.normalisation."""
        return ()

    def measured_values(self, mean: float, std: float) -> dict[str, float]:
        """Values of the unknown options, which normalise the training points.

        Args:
            mean: Mean of the coordinates of the training points, encoded with the defaults of the unknown options.
            std: Their standard deviation.
        """
        return {}

    def sound(self, x: Tensor) -> Sound | None:
        """The waveforms of points; None where points are not sound.

        Args:
            x: Points, (n, *D).
        """
        return None

    def vertices(self, x: Tensor, origin: Tensor) -> Vertices | None:
        """Points as coloured clouds in space; None where points are not clouds in space.

        Args:
            x: Points, (n, *D).
            origin: Starts of the points, (n, *D), which determine the colours.
        """
        return None
