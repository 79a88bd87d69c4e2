"""Images as point clouds in the plane, drawn from the distribution of their brightness."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.modality.base import Modality
from flowport.modality.scatter import COLUMNS, draw

BITS = 31
"""Bits of the random integers, whose products with the total brightness of an image fit into 63 bits."""
MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))
"""Shifts and factors of the output function of splitmix64."""
STEP = 0x9E3779B97F4A7C15 - 2**64
"""Increment of the state of splitmix64."""


class PixelCloud(Modality):
    """Point clouds x (n, 2, N) drawn independently from the density on the plane that is proportional to brightness.

    A raw image is (n, 1, size, size) uint8. A point falls into pixel k with probability w_k, the share of the
    brightness of that pixel, and is uniform in it. Coordinates are right and up of the centre of the image, whose edges
    lie at ±reach. With the pixel centres p and h = 2 reach/size: E x = Σ w p, E x xᵀ = Σ w p pᵀ + h²/12 I.

    decode counts the points in each pixel, which are binomial with mean N w and standard deviation √(N w (1 − w)), so
    that decode(encode(raw)) converges to 255 raw/max raw as N grows. Encoding with a generator draws new points.
    Without one the random numbers are a hash of the image, so that its cloud depends on neither batch nor device.
    Pictures have the colours of :class:`flowport.modality.Cloud`.

    Args:
        points: Number N of points.
        size: Height and width of the images, pixels.
        reach: Half of the width of the square of the image; 2.6 brings digits of 28 pixels to about unit scale.

    Raises:
        FlowportError: When an argument is not positive.

    References:
        Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", doi:10.1145/2660193.2660195.
    """

    shown = COLUMNS

    def __init__(self, points: int = 128, size: int = 28, reach: float = 2.6) -> None:
        if points < 1 or size < 1 or not reach > 0:
            raise FlowportError(
                f"modality.PixelCloud needs points ≥ 1, size ≥ 1 and reach > 0, not points={points}, size={size}, "
                f"reach={reach}"
            )
        self.points, self.size, self.reach = points, size, reach
        self.pixel = 2 * reach / size

    def accept(self, name: str, raw: Tensor) -> None:
        """Checks once that every image of a data set has the right size and is not black.

        Args:
            name: Name of the data set in messages.
            raw: All images, (N, 1, size, size) uint8.

        Raises:
            FlowportError: When an image is of another size or type, or black.
        """
        empty = (self._brightness(raw).sum(1) == 0).nonzero()
        if len(empty):
            raise FlowportError(
                f"{name} has no ink in image {int(empty[0])} of {len(raw)}, so no point can be drawn from it: leave "
                "it out, or use modality=Image"
            )

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        brightness = self._brightness(raw)
        size = (len(raw), self.points, 3)
        if generator is None:
            drawn = _numbers(brightness, self.points)
        else:
            drawn = torch.randint(2**BITS, size, generator=generator, device=generator.device).to(raw.device)
        mass = brightness.cumsum(1)
        pixel = torch.searchsorted(mass, drawn[:, :, 0] * mass[:, -1:] >> BITS, right=True)
        inside = (drawn[:, :, 1:] >> (BITS - 24)).float() / 2**24
        right, down = pixel % self.size + inside[:, :, 0], pixel // self.size + inside[:, :, 1]
        return torch.stack([right - self.size / 2, self.size / 2 - down], 1) * self.pixel

    def _brightness(self, raw: Tensor) -> Tensor:
        """Brightness of all pixels, (n, size²) int64."""
        if raw.dtype != torch.uint8 or raw.ndim != 4 or raw.shape[1] != 1:
            raise FlowportError(
                f"modality.PixelCloud takes uint8 images of one channel (n, 1, H, W), but got {raw.dtype} "
                f"{tuple(raw.shape)}"
            )
        if raw.shape[2:] != (self.size, self.size):
            raise FlowportError(f"modality.size is {self.size}, but the images are {raw.shape[2]} x {raw.shape[3]}")
        return raw.flatten(1).long()

    def counts(self, x: Tensor) -> Tensor:
        """Number of points in every pixel, (n, 1, size, size) int64.

        Args:
            x: Point clouds, (n, 2, N); points outside the image, or not finite, are not counted.
        """
        place = torch.stack([self.size / 2 - x[:, 1] / self.pixel, x[:, 0] / self.pixel + self.size / 2])
        within = ((place >= 0) & (place < self.size)).all(0)  # False for what is not finite
        row, column = place.where(within, 0).long()
        found = torch.zeros(len(x), self.size**2, dtype=torch.long, device=x.device)
        return found.scatter_add_(1, row * self.size + column, within.long()).view(-1, 1, self.size, self.size)

    def decode(self, x: Tensor) -> Tensor:
        """Images of the counts, (n, 1, size, size) uint8: 255 counts/max counts.

        Args:
            x: Point clouds, (n, 2, N).
        """
        counts = self.counts(x)
        return (255 * counts / counts.amax((2, 3), keepdim=True).clamp_min(1)).round().to(torch.uint8)

    def render(self, rows: dict[str, Tensor], path: str, unrelated: Collection[str] = ()) -> Tensor:
        return draw(rows, path, torch.eye(3, 2), unrelated)

    def sheet(self, rows: dict[str, Tensor], numbers: Mapping[str, Tensor], path: str) -> Tensor:
        return draw(rows, path, torch.eye(3, 2), numbers=numbers)


def _mixed(z: Tensor) -> Tensor:
    """The output function of splitmix64 on int64 numbers: products wrap, and shifts are made logical by a mask."""
    for shift, factor in MIX:
        z = (z ^ (z >> shift & 2 ** (64 - shift) - 1)) * factor
    return z


def _numbers(brightness: Tensor, points: int) -> Tensor:
    """Integers in [0, 2^BITS), (n, points, 3), a hash of each row of brightness (n, pixels)."""
    place = _mixed(STEP * torch.arange(1, brightness.shape[1] + 1, device=brightness.device))
    image = _mixed((brightness * place).sum(1))
    number = _mixed(image[:, None] + STEP * torch.arange(1, 3 * points + 1, device=brightness.device))
    return (number >> (64 - BITS) & 2**BITS - 1).view(len(brightness), points, 3)
