"""Clouds of points in space: sets, drawn as panels in which colour tells where a point came from."""

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
"""What is seen to the right, upwards and towards the eye from 30 degrees above."""


def rotations(n: int, generator: torch.Generator) -> Tensor:
    """n uniform rotations, (n, 3, 3): unit quaternions from four normal numbers (Shoemake 1992)."""
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
    """x (n, 3, N) = raw (n, N, 3) with the coordinates first. decode(encode(raw)) = raw where ``points`` is None or N.

    points: how many of the raw points make a cloud, the first ones, or with a generator a fresh choice each time.
    rotate: with a generator every cloud is turned by a uniform rotation.
    Pictures: a row of clouds each; a point keeps the colour of its height in the first row, so that rows of one
    trajectory show who went where. Raises FlowportError for anything but (n, N, 3).
    """

    shown = COLUMNS

    def __init__(self, points: int | None = None, rotate: bool = False) -> None:
        self.points, self.rotate = points, rotate

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
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

    def render(self, rows: dict[str, Tensor], path: str) -> Tensor:
        return draw(rows, path, VIEW)

    def vertices(self, x: Tensor, origin: Tensor) -> Vertices:
        colours = (255 * correspondence(x, origin)).round().to(torch.uint8)
        return Vertices(x.detach().transpose(1, 2).cpu().float(), colours)
