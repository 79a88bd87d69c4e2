"""A modality says what x is: how raw data become points, how points become raw data again, how they are shown."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sound:
    """waves: (n, T) int16; rate: samples a second."""

    waves: Tensor
    rate: int


@dataclass(frozen=True)
class Vertices:
    """points: (n, N, 3) float32; colours: (n, N, 3) uint8."""

    points: Tensor
    colours: Tensor


class Modality(ABC):
    """encode and decode are batched and run on the device of their input. shown: points that a picture shows well."""

    shown: ClassVar[int] = 16

    def accept(self, name: str, raw: Tensor) -> None:
        """Asked once, of all items of the data set ``name``: raises FlowportError where one of them cannot be
        encoded."""
        return

    @abstractmethod
    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        """Raw (n, …) to points (n, *D), float32. With a generator: augmented; without: exactly reproducible."""

    def dequantised(self, raw: Tensor, generator: torch.Generator) -> tuple[Tensor, float | None]:
        """Points of raw data (n, …), not augmented, and the logarithm of the volume of the cell of a point.

        Raw data of finitely many levels have no density: each number is drawn uniformly from the cell of its level
        (Theis et al. 2016), so that E log p(x) + log volume ≤ log P(raw). None: there are no levels, x = encode(raw).
        """
        return self.encode(raw, None), None

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Points (n, *D) to raw data (n, …); decode(encode(raw, None)) = raw."""

    @abstractmethod
    def render(self, rows: dict[str, Tensor], path: str) -> Tensor:
        """Draw named rows of points as one picture, write it to ``path`` (png), return it as (3, H, W) uint8."""

    def observed(self, x: Tensor) -> Tensor:
        """Points as metrics and pictures see them: themselves, unless they are latents of something."""
        return x

    def embedded(self, x: Tensor) -> Tensor:
        """What is observed as a point: the way back."""
        return x

    def surface(self) -> "Modality":
        """The modality of what is observed."""
        return self

    def codec(self) -> nn.Module | None:
        """The frozen network that encode and decode need; its weights are saved with the flow."""
        return None

    def unknown(self) -> tuple[str, ...]:
        """The options that were left null, to be measured on the training data (``flowport.data.normalisation``)."""
        return ()

    def settled(self, mean: float, std: float) -> dict[str, float]:
        """Values of the unknown options, given mean and standard deviation of the training points as they are
        encoded without them."""
        return {}

    def sound(self, x: Tensor) -> Sound | None:
        """What points sound like; None where they are silent."""
        return None

    def vertices(self, x: Tensor, origin: Tensor) -> Vertices | None:
        """Points x in space, in the colours of where they came from, ``origin`` (n, *D); None where they have none."""
        return None
