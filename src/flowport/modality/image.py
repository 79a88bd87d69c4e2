"""Images: bytes scaled to [−1, 1], with affine augmentation and uniform dequantisation.

References:
    Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models", arXiv:1511.01844
        (uniform dequantisation).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.errors import FlowportError
from flowport.modality.base import Modality
from flowport.modality.gallery import draw

PAPER = 0.9
"""Grey upon which transparent images are drawn."""


class Image(Modality):
    """Images of bytes (n, C, H, W) as float32 points x = raw/127.5 − 1 in [−1, 1].

    decode rounds, so that decode(encode(raw, None)) = raw. With a generator, pixel p of an augmented image is the input
    at c + R(θ) K M (p − c)/s − δ by bilinear interpolation: c is the centre, R(θ) a rotation, K a shear along x, M the
    mirroring diag(−1, 1) of half of the images, s a scale and δ a shift. With all of them off, images are unchanged bit
    by bit.

    Args:
        shift: δ ~ U[−shift, shift]², pixels.
        rotation: θ ~ U[−rotation, rotation], degrees.
        scale: s ~ U[1 − scale, 1 + scale].
        shear: Shear of K ~ U[−shear, shear].
        flip: Whether half of the images are mirrored left to right.
        outside: Values beyond the border, a padding mode of ``torch.nn.functional.grid_sample``: border, zeros (mid
            grey) or reflection.
        dequantise: Whether x = (raw + u)/128 − 1 instead, with u ~ U(0, 1) under a generator and u = ½ without, so that
            bytes have a density; decode then rounds down.
        size: Height and width of the points, into which images are scaled whole and centred on black; None for those of
            the data. decode gives images of this size.
        channels: Number of channels of the points: 1 from RGB by ITU-R BT.601 luma, 3 from grey by repetition; None for
            that of the data. decode gives this number of channels.

    Raises:
        FlowportError: When an augmentation is out of range, the padding mode is unknown, or size or channels are none
            of the allowed ones.
    """

    def __init__(
        self,
        shift: float = 0.0,
        rotation: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        flip: bool = False,
        outside: str = "border",
        dequantise: bool = False,
        size: Sequence[int] | None = None,
        channels: int | None = None,
    ) -> None:
        for key, value, below in (
            ("shift", shift, math.inf),
            ("rotation", rotation, 360.0),
            ("scale", scale, 1.0),
            ("shear", shear, math.inf),
        ):
            if not 0 <= value < below:
                raise FlowportError(f"modality.{key} is {value}; it must be at least 0 and below {below}")
        if outside not in ("border", "zeros", "reflection"):
            raise FlowportError(f"modality.outside is {outside!r}; it must be border, zeros or reflection")
        self.shift, self.rotation, self.scale, self.shear = shift, rotation, scale, shear
        if channels not in (None, 1, 3) or (size is not None and (len(size) != 2 or min(size) < 1)):
            raise FlowportError(
                f"modality.size and channels are {size} and {channels}; allowed are [height, width] and 1 or 3"
            )
        self.flip, self.outside, self.dequantise = flip, outside, dequantise
        self.size, self.channels = None if size is None else (int(size[0]), int(size[1])), channels
        self.luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        self.exact = not (shift or rotation or scale or shear or flip)

    def meaning(self) -> dict[str, Any]:
        return {"dequantise": self.dequantise}

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        """The points raw/127.5 − 1, or (raw + u)/128 − 1 with ``dequantise``, augmented under a generator.

        Args:
            raw: Images, (n, C, H, W) uint8.
            generator: Randomness of augmentation and dequantisation; None for neither.

        Raises:
            FlowportError: When the raw items are no such images.
        """
        if raw.dtype != torch.uint8 or raw.ndim != 4:
            raise FlowportError(
                f"modality.Image takes uint8 images (n, C, H, W), but got {raw.dtype} {tuple(raw.shape)}"
            )
        values = self._lifted(raw.to(torch.float32))
        x = self._dequantised(values, generator) if self.dequantise else values / 127.5 - 1
        return x if generator is None or self.exact else self._augment(x, generator)

    def dequantised(self, raw: Tensor, generator: torch.Generator) -> tuple[Tensor, float | None]:
        """Points uniform in the quantisation cells of their bytes, and the log-volume of the cell of one point.

        The cell of byte k is [k, k + 1)/128 − 1 with ``dequantise``, else [k − ½, k + ½)/127.5 − 1, so that
        decode(x) = raw. The log-volume for D coordinates is −D log 128, else −D log 127.5.

        Args:
            raw: Images, (n, C, H, W) uint8.
            generator: Randomness of the draw.

        Raises:
            FlowportError: When ``size`` or ``channels`` change the images, whose pixels are then not bytes.
        """
        if self.size is not None or self.channels is not None:
            raise FlowportError(
                "images lifted by modality.size or channels are no bytes of 256 levels: leave both null"
            )
        x, levels = self._dequantised(raw.to(torch.float32), generator), 128.0
        if not self.dequantise:
            x, levels = ((x + 1) * 128 - 0.5) / 127.5 - 1, 127.5
        return x, -raw[0].numel() * math.log(levels)

    def decode(self, x: Tensor) -> Tensor:
        """The bytes of points, (n, C, H, W) uint8: rounded (down with ``dequantise``) and clamped to [0, 255].

        Args:
            x: Points, (n, C, H, W).
        """
        values = ((x + 1) * 128).floor() if self.dequantise else ((x.to(torch.float32) + 1) * 127.5).round()
        return values.clamp(0, 255).to(torch.uint8)

    def _dequantised(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        """Points (values + u)/128 − 1, with u in steps of 2⁻¹², so that float32 never rounds up to the next byte."""
        if generator is None:
            return (values + 0.5) / 128 - 1
        steps = torch.randint(2**12, values.shape, generator=generator, device=generator.device).to(values)
        return (values + (steps + 0.5) / 2**12) / 128 - 1

    def _lifted(self, values: Tensor) -> Tensor:
        if self.channels is not None and self.channels != values.shape[1]:
            luma = self.luma.to(values.device)
            values = values.expand(-1, 3, -1, -1) if self.channels == 3 else (values * luma).sum(1, keepdim=True)
        if self.size is None or self.size == tuple(values.shape[2:]):
            return values
        share = min(self.size[0] / values.shape[2], self.size[1] / values.shape[3])
        high, wide = (max(1, round(side * share)) for side in values.shape[2:])
        fitted = F.interpolate(values, (high, wide), mode="bilinear", antialias=True, align_corners=False)
        top, left = (self.size[0] - high) // 2, (self.size[1] - wide) // 2
        return F.pad(fitted, (left, self.size[1] - wide - left, top, self.size[0] - high - top))

    def render(self, rows: dict[str, Tensor], path: str, unrelated: Collection[str] = ()) -> Tensor:
        return draw(self._drawn(rows), path)

    def sheet(self, rows: dict[str, Tensor], numbers: Mapping[str, Tensor], path: str) -> Tensor:
        return draw(self._drawn(rows), path, numbers=numbers)

    @staticmethod
    def _drawn(rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: _shown((row.detach().cpu().float() + 1) / 2) for name, row in rows.items()}

    def _augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = x.shape
        u = (2 * torch.rand(6, n, generator=generator, device=generator.device) - 1).to(x.device)
        angle, zoom, shear = u[0] * math.radians(self.rotation), 1 + u[1] * self.scale, u[2] * self.shear
        mirror = torch.where((u[3] < 0) & self.flip, -1.0, 1.0)
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        linear = torch.stack([cos * mirror, cos * shear - sin, sin * mirror, sin * shear + cos], 1).view(n, 2, 2)
        half = torch.stack([x.new_full((), side / 2) for side in (width, height)])  # new_full copies nothing
        normalised = linear * half[None, None, :] / half[None, :, None]
        offset = -u[4:6].T * self.shift / half
        grid = F.affine_grid(torch.cat([normalised, offset[:, :, None]], 2), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode=self.outside, align_corners=False)


def _shown(images: Tensor) -> Tensor:
    """Images in [0, 1], those of colour multiplied by opacity, and opacity, upon a light grey."""
    return images[:, :3] + PAPER * (1 - images[:, 3:]) if images.shape[1] == 4 else images


class FloatImage(Modality):
    """Floating-point images (n, C, H, W), unchanged: x = raw.

    Args:
        low: Value that is drawn black.
        high: Value that is drawn white.

    Raises:
        FlowportError: When high is not above low.
    """

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        if not high > low:
            raise FlowportError(f"modality.high is {high}; it must be above modality.low, which is {low}")
        self.low, self.high = low, high

    def meaning(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        return raw.to(torch.float32)

    def decode(self, x: Tensor) -> Tensor:
        return x

    def render(self, rows: dict[str, Tensor], path: str, unrelated: Collection[str] = ()) -> Tensor:
        return draw(self._drawn(rows), path)

    def sheet(self, rows: dict[str, Tensor], numbers: Mapping[str, Tensor], path: str) -> Tensor:
        return draw(self._drawn(rows), path, numbers=numbers)

    def _drawn(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        span = self.high - self.low
        return {name: (row.detach().cpu().float() - self.low) / span for name, row in rows.items()}
