"""Images: bytes to [-1, 1] and back, augmented by small affine maps, drawn in labelled rows."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.errors import Refusal
from flowport.modality.base import Modality
from flowport.modality.gallery import draw


class Image(Modality):
    """x = raw / 127.5 − 1: bytes (n, C, H, W) to float32 in [−1, 1]; decode rounds, so decode(encode(raw, None)) = raw.

    With a generator, pixel p of an augmented image is the input at c + R(θ) K (p − c) / s − δ, bilinear, c the centre,
    δ ~ U[−shift, shift]² pixels, θ ~ U[−rotation, rotation] degrees, s ~ U[1 − scale, 1 + scale], K a shear along x by
    U[−shear, shear]; with ``flip`` half of the images are mirrored left to right. All zero: exactly no augmentation.
    outside: what stands beyond the border, one of torch's grid_sample: border, zeros (mid grey) or reflection.
    """

    def __init__(self, shift: float = 0.0, rotation: float = 0.0, scale: float = 0.0, shear: float = 0.0,
                 flip: bool = False, outside: str = "border") -> None:  # fmt: skip
        for key, value, below in (("shift", shift, math.inf), ("rotation", rotation, 360.0), ("scale", scale, 1.0),
                                  ("shear", shear, math.inf)):  # fmt: skip
            if not 0 <= value < below:
                raise Refusal(f"modality.{key} is {value}; it must be at least 0 and below {below}")
        if outside not in ("border", "zeros", "reflection"):
            raise Refusal(f"modality.outside is {outside!r}; it must be border, zeros or reflection")
        self.shift, self.rotation, self.scale, self.shear = shift, rotation, scale, shear
        self.flip, self.outside = flip, outside
        self.exact = not (shift or rotation or scale or shear or flip)

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        """Bytes (n, C, H, W) to float32 points in [−1, 1]. Raises Refusal for anything but bytes."""
        if raw.dtype != torch.uint8 or raw.ndim != 4:
            raise Refusal(f"modality.Image takes uint8 images (n, C, H, W), but got {raw.dtype} {tuple(raw.shape)}")
        x = raw.to(torch.float32) / 127.5 - 1
        return x if generator is None or self.exact else self._augment(x, generator)

    def decode(self, x: Tensor) -> Tensor:
        """Points to bytes (n, C, H, W), rounded to the nearest and clamped to 0 … 255."""
        return ((x.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def render(self, rows: dict[str, Tensor], path: str) -> Tensor:
        return draw({name: (row.detach().cpu().float() + 1) / 2 for name, row in rows.items()}, path)

    def _augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = x.shape
        u = (2 * torch.rand(6, n, generator=generator, device=generator.device) - 1).to(x.device)
        angle, zoom, shear = u[0] * math.radians(self.rotation), 1 + u[1] * self.scale, u[2] * self.shear
        mirror = torch.where((u[3] < 0) & self.flip, -1.0, 1.0)
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        linear = torch.stack([cos * mirror, cos * shear - sin, sin * mirror, sin * shear + cos], 1).view(n, 2, 2)
        half = torch.tensor([width / 2, height / 2], device=x.device)
        normalised = linear * half[None, None, :] / half[None, :, None]
        offset = -u[4:6].T * self.shift / half
        grid = F.affine_grid(torch.cat([normalised, offset[:, :, None]], 2), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode=self.outside, align_corners=False)


class FloatImage(Modality):
    """x = raw: images (n, C, H, W) that are floating already; their values are kept. low is drawn black, high white."""

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        if not high > low:
            raise Refusal(f"modality.high is {high}; it must be above modality.low, which is {low}")
        self.low, self.high = low, high

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        return raw.to(torch.float32)

    def decode(self, x: Tensor) -> Tensor:
        return x

    def render(self, rows: dict[str, Tensor], path: str) -> Tensor:
        span = self.high - self.low
        return draw({name: (row.detach().cpu().float() - self.low) / span for name, row in rows.items()}, path)
