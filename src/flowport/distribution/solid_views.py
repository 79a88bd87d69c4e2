"""Views of random boxes and ellipsoids: one solid as a shaded image and as a depth image is a pair of true partners."""

from functools import lru_cache
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.distribution.base import Stored
from flowport.distribution.parts import split_by_name
from flowport.errors import FlowportError
from flowport.modality import Image, Modality
from flowport.modality.cloud import rotations
from flowport.randomness import Randomness

KINDS = ("box", "ellipsoid")
"""Classes of solids."""
AXES = (0.3, 0.75)
"""Interval of the half-axes, where the image shows [−1, 1]²."""
FINER = 3
"""Rays per pixel and axis."""
LIGHT = (-0.45, 0.55, 0.70)
"""Direction to the light, of length 1 up to rounding; the third axis points to the viewer."""
AMBIENT, FARTHEST = 0.15, 0.2
"""Brightness of a surface turned away from the light, and of the farthest point of a depth image."""


def ellipsoid_hits(origin: Tensor, direction: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Where lines origin + t · direction leave ellipsoids, t (n, m), and the normals there, (n, m, 3); NaN for a miss.

    Args:
        origin: Points on the lines in the solids' own coordinates, (n, m, 3).
        direction: Directions, (n, 1, 3).
        axes: Half-axes, (n, 3).
    """
    o, d = origin / axes[:, None], direction / axes[:, None]
    a, b, c = d.square().sum(2), (o * d).sum(2), o.square().sum(2) - 1
    t = (-b + (b.square() - a * c).sqrt()) / a
    normal = (origin + t[..., None] * direction) / axes[:, None].square()
    return t, normal / normal.norm(dim=2, keepdim=True)


def box_hits(origin: Tensor, direction: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Where lines origin + t · direction leave boxes, t (n, m), and the normals there, (n, m, 3); NaN for a miss.

    Args:
        origin: Points on the lines in the solids' own coordinates, (n, m, 3).
        direction: Directions, (n, 1, 3), no coordinate of which is 0.
        axes: Half-edges, (n, 3).
    """
    ends = torch.stack([(side * axes[:, None] - origin) / direction for side in (-1, 1)])
    t, axis = ends.amax(0).min(2)
    normal = F.one_hot(axis, 3) * direction.sign()
    return t.masked_fill(t < ends.amin(0).amax(2), torch.nan), normal


@lru_cache(maxsize=4)
def _hits(count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Depth (n, m, m) and normal (n, m, m, 3) along every ray, NaN where it misses, and the kinds (n,)."""
    draw = Randomness(0, scope="/solid views").generator("solids")
    axes = AXES[0] + (AXES[1] - AXES[0]) * torch.rand(count, 3, generator=draw)
    turn = rotations(count, draw)
    kind = torch.arange(count) % len(KINDS)
    place = (torch.arange(size * FINER) + 0.5) * 2 / (size * FINER) - 1
    height, across = torch.meshgrid(-place, place, indexing="ij")
    rays = torch.stack([across, height, torch.zeros_like(across)], 2).view(1, -1, 3) @ turn  # R^T of each ray
    ahead = turn[:, 2:]  # R^T of the axis to the viewer
    found = [hits(rays, ahead, axes) for hits in (box_hits, ellipsoid_hits)]
    is_box = (kind == 0)[:, None]
    depth = torch.where(is_box, found[0][0], found[1][0])
    normal = torch.where(is_box[..., None], found[0][1], found[1][1]) @ turn.transpose(1, 2)
    side = size * FINER
    return depth.view(count, side, side), normal.view(count, side, side, 3), kind


@lru_cache(maxsize=8)
def _drawn(view: str, count: int, size: int) -> tuple[Tensor, Tensor]:
    depth, normal, kind = _hits(count, size)
    if view == "depth":
        bright = FARTHEST + (1 - FARTHEST) * (depth + 1).clamp(0, 2) / 2
    else:
        bright = AMBIENT + (1 - AMBIENT) * (normal @ torch.tensor(LIGHT)).clamp_min(0)
    bright = bright.masked_fill(depth.isnan(), 0)[:, None]
    return F.avg_pool2d(255 * bright, FINER).round().clamp(0, 255).to(torch.uint8), kind


@final
class SolidViews(Stored):
    """Grey images of random boxes and ellipsoids in random pose, shaded or with their depth as brightness.

    Half-axes are uniform in [0.3, 0.75] where the image shows [−1, 1]² by parallel rays. ``shaded`` is Lambert's law
    under one light; in ``depth`` nearer surfaces are brighter. Solid k is the same one in both views, which are true
    partners by name; a hash of the name decides the split, as for ``Glyphs``. The background is black.

    Args:
        view: ``"shaded"`` or ``"depth"``.
        count: Number of solids.
        size: Height and width of the image (1, size, size), in pixels.
        modality: Encodes the images; None for ``Image`` without augmentation.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: For another view, fewer than 20 solids, or a size below 8.
    """

    def __init__(
        self,
        view: Literal["shaded", "depth"] = "shaded",
        count: int = 1200,
        size: int = 28,
        modality: Modality | None = None,
        part: str = "train",
    ) -> None:
        if view not in ("shaded", "depth"):
            raise FlowportError(f"solid_views.view is {view!r}; it must be shaded or depth")
        if count < 20 or size < 8:
            raise FlowportError(f"solid_views needs count ≥ 20 and size ≥ 8, not count={count}, size={size}")
        raw, kind = _drawn(view, count, size)
        names = tuple(f"solid {k}" for k in range(count))
        super().__init__(
            f"{view} solids",
            raw,
            kind,
            modality or Image(),
            split_by_name(names),
            part,
            classes=len(KINDS),
            class_names=KINDS,
            names=names,
        )
