"""The ink of an image as a cloud of points in the plane: a lift from images to clouds."""

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.modality.base import Modality
from flowport.modality.scatter import COLUMNS, draw

BITS = 31
"""Random whole numbers have so many bits: times the ink of an image they still fit into 63."""
MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))
"""Shifts and factors of splitmix64 (Steele, Lea & Flood 2014)."""
STEP = 0x9E3779B97F4A7C15 - 2**64


class PixelCloud(Modality):
    """x (n, 2, N): N points drawn from an image (n, 1, size, size) in proportion to its ink (brightness), uniform
    inside their pixel, as (right, up) from the picture's middle; its edges lie at ±reach.

    With shares of ink w, middles of pixels p and h = 2 reach/size: E x = Σ w p, E x xᵀ = Σ w p pᵀ + h²/12 I.
    With a generator: fresh points each time. Without: a function of the image alone, whatever its batch and device; its
    random numbers are a hash of its bytes. decode counts points: the expected count of a pixel is N w, its standard
    deviation √(N w (1 − w)), so that decode(encode(raw)) comes to raw over its brightest value as N grows.
    reach: 2.6 brings digits and silhouettes of 28 pixels to about unit size.
    Pictures colour as those of :class:`flowport.modality.Cloud`. Raises FlowportError for images of another size or
    kind, and
    without ink.
    """

    shown = COLUMNS

    def __init__(self, points: int = 128, size: int = 28, reach: float = 2.6) -> None:
        if points < 1 or size < 1 or not reach > 0:
            raise FlowportError(
                f"modality.Ink needs points ≥ 1, size ≥ 1 and reach > 0, not points={points}, size={size}, "
                f"reach={reach}"
            )
        self.points, self.size, self.reach = points, size, reach
        self.pixel = 2 * reach / size

    def accept(self, name: str, raw: Tensor) -> None:
        empty = (self._ink(raw).sum(1) == 0).nonzero()
        if len(empty):
            raise FlowportError(
                f"{name} has no ink in image {int(empty[0])} of {len(raw)}, so no point can be drawn from it: leave "
                "it out, or use modality=Image"
            )

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        ink = self._ink(raw)
        size = (len(raw), self.points, 3)
        if generator is None:
            drawn = _numbers(ink, self.points)
        else:
            drawn = torch.randint(2**BITS, size, generator=generator, device=generator.device).to(raw.device)
        mass = ink.cumsum(1)
        pixel = torch.searchsorted(mass, drawn[:, :, 0] * mass[:, -1:] >> BITS, right=True)
        inside = (drawn[:, :, 1:] >> (BITS - 24)).float() / 2**24
        right, down = pixel % self.size + inside[:, :, 0], pixel // self.size + inside[:, :, 1]
        return torch.stack([right - self.size / 2, self.size / 2 - down], 1) * self.pixel

    def _ink(self, raw: Tensor) -> Tensor:
        if raw.dtype != torch.uint8 or raw.ndim != 4 or raw.shape[1] != 1:
            raise FlowportError(
                f"modality.Ink takes uint8 images of one channel (n, 1, H, W), but got {raw.dtype} {tuple(raw.shape)}"
            )
        if raw.shape[2:] != (self.size, self.size):
            raise FlowportError(f"modality.size is {self.size}, but the images are {raw.shape[2]} x {raw.shape[3]}")
        return raw.flatten(1).long()

    def counts(self, x: Tensor) -> Tensor:
        """(n, 1, size, size) int64: points in every pixel; those outside the picture, or not finite, in none."""
        place = torch.stack([self.size / 2 - x[:, 1] / self.pixel, x[:, 0] / self.pixel + self.size / 2])
        within = ((place >= 0) & (place < self.size)).all(0)  # False for what is not finite
        row, column = place.where(within, 0).long()
        found = torch.zeros(len(x), self.size**2, dtype=torch.long, device=x.device)
        return found.scatter_add_(1, row * self.size + column, within.long()).view(-1, 1, self.size, self.size)

    def decode(self, x: Tensor) -> Tensor:
        """Images (n, 1, size, size) of counts, the fullest pixel white."""
        counts = self.counts(x)
        return (255 * counts / counts.amax((2, 3), keepdim=True).clamp_min(1)).round().to(torch.uint8)

    def render(self, rows: dict[str, Tensor], path: str) -> Tensor:
        return draw(rows, path, torch.eye(3, 2))


def _mixed(z: Tensor) -> Tensor:
    """The bits of int64 numbers, stirred (splitmix64): multiplication wraps, and shifts must bring in zeros."""
    for shift, factor in MIX:
        z = (z ^ (z >> shift & 2 ** (64 - shift) - 1)) * factor
    return z


def _numbers(ink: Tensor, points: int) -> Tensor:
    """(n, points, 3) whole numbers below 2^BITS, a hash of each row of ink (n, pixels)."""
    place = _mixed(STEP * torch.arange(1, ink.shape[1] + 1, device=ink.device))
    image = _mixed((ink * place).sum(1))
    number = _mixed(image[:, None] + STEP * torch.arange(1, 3 * points + 1, device=ink.device))
    return (number >> (64 - BITS) & 2**BITS - 1).view(len(ink), points, 3)
