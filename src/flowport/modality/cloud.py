"""Point clouds in space: sets of 3D points, drawn with colours that show the correspondence to the start."""

from collections.abc import Collection, Mapping
from math import cos, radians, sin

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.modality.base import Modality, Vertices
from flowport.modality.scatter import COLUMNS, correspondence, draw

UP, ROUND = radians(30), radians(-60)
VIEW = torch.tensor(
    [
        [-sin(ROUND), cos(ROUND), 0],
        [-sin(UP) * cos(ROUND), -sin(UP) * sin(ROUND), cos(UP)],
        [cos(UP) * cos(ROUND), cos(UP) * sin(ROUND), sin(UP)],
    ]
)
"""Directions of space, one a row, that are drawn right, up and towards the viewer, from 30 degrees above."""


def rotations(n: int, generator: torch.Generator) -> Tensor:
    """Uniform (Haar) random rotation matrices, (n, 3, 3), from normalised Gaussian quaternions.

    Args:
        n: Number of rotations.
        generator: Random generator, whose device the matrices are on.

    References:
        Shoemake 1992, "Uniform Random Rotations", Graphics Gems III, doi:10.1016/B978-0-08-050755-2.50036-1.
    """
    q = torch.randn(n, 4, generator=generator, device=generator.device)
    w, x, y, z = (q / q.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - z * w),
        2 * (x * z + y * w),
        2 * (x * y + z * w),
        1 - 2 * (x * x + z * z),
        2 * (y * z - x * w),
        2 * (x * z - y * w),
        2 * (y * z + x * w),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, 1).view(n, 3, 3)


class Cloud(Modality):
    """Point clouds, x (n, 3, N) = raw (n, N, 3) transposed.

    decode(encode(raw, None)) = raw where all points are used. In pictures a point has the colour of its height in the
    first row, so that the rows of one trajectory show which points correspond, and in unrelated rows of its own height.

    Args:
        points: Number N of raw points in a cloud: the first ones, or with a generator a new random subset each time;
            None for all.
        rotate: Whether encoding with a generator rotates every cloud by a uniform random rotation.
    """

    shown = COLUMNS

    def __init__(self, points: int | None = None, rotate: bool = False) -> None:
        self.points, self.rotate = points, rotate

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        """The clouds with coordinates first, (n, 3, N) float32.

        Args:
            raw: Clouds, (n, M, 3) with M ≥ N points.
            generator: Randomness of the subset and the rotation; None for the first points, not rotated.

        Raises:
            FlowportError: When the shape is another one or the raw clouds have fewer than N points.
        """
        if raw.ndim != 3 or raw.shape[2] != 3:
            raise FlowportError(f"modality.Cloud takes clouds (n, N, 3), but got {tuple(raw.shape)}")
        x, points = raw.to(torch.float32), self.points or raw.shape[1]
        if points > raw.shape[1]:
            raise FlowportError(f"clouds of {points} points cannot be made of {raw.shape[1]}")
        if generator is not None and points < raw.shape[1]:
            noise = torch.rand(raw.shape[:2], generator=generator, device=generator.device).to(x.device)
            x = x.gather(1, noise.argsort(1)[:, :points, None].expand(-1, -1, 3))
        x = x[:, :points]
        if generator is not None and self.rotate:
            x = x @ rotations(len(x), generator).to(x)
        return x.transpose(1, 2).contiguous()

    def decode(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)

    def render(self, rows: dict[str, Tensor], path: str, unrelated: Collection[str] = ()) -> Tensor:
        return draw(rows, path, VIEW, unrelated)

    def sheet(self, rows: dict[str, Tensor], numbers: Mapping[str, Tensor], path: str) -> Tensor:
        return draw(rows, path, VIEW, numbers=numbers)

    def vertices(self, x: Tensor, origin: Tensor) -> Vertices:
        colours = (255 * correspondence(x, origin)).round().to(torch.uint8)
        return Vertices(x.detach().transpose(1, 2).cpu().float(), colours)
