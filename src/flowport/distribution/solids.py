"""Surfaces of parametric solids in random pose and proportion, as clouds of points: fresh ones without end."""

from abc import abstractmethod
from math import pi
from typing import final

import torch
from torch import Tensor

from flowport.distribution.base import Analytic
from flowport.errors import Refusal
from flowport.modality import Cloud
from flowport.modality.cloud import rotations
from flowport.shapes import Sample

SCALE = 1 / 0.52
"""Brings the coordinates of a torus to a standard deviation near 1."""
NEWTON = 6
CANDIDATES = 4
"""Draws per point of a rejection sampler that never keeps less than 0.4 of them on average."""


class Solid(Analytic):
    """``points`` points, independent and uniform on the surface, jittered by N(0, jitter²), turned and scaled.

    A member writes ``surface``. Clouds are exchangeable: the order of the points means nothing.
    """

    def __init__(self, points: int = 128, jitter: float = 0.01) -> None:
        if points < 1 or jitter < 0:
            raise Refusal(f"a cloud needs points ≥ 1 and jitter ≥ 0, not points={points}, jitter={jitter}")
        self.points, self.jitter = points, jitter
        self.event_shape = (3, points)
        self.modality = Cloud()

    @abstractmethod
    def surface(self, n: int, generator: torch.Generator) -> Tensor:
        """n clouds (n, points, 3), uniform on the surfaces of n solids in their own coordinates."""

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        cloud = self.surface(n, generator)
        cloud = cloud + self.jitter * torch.randn(cloud.shape, generator=generator, device=generator.device)
        turned = SCALE * cloud @ rotations(n, generator)
        return Sample(turned.transpose(1, 2).contiguous().to(self.device))

    def uniform(self, n: int, generator: torch.Generator, low: float = 0.0, high: float = 1.0, many: int = 0) -> Tensor:
        """(n, many or points) uniform numbers."""
        size = (n, many or self.points)
        return low + (high - low) * torch.rand(size, generator=generator, device=generator.device)


@final
class Torus(Solid):
    """Tube radius r around a circle of radius R; R ~ U[0.7, 1], r/R ~ U[0.2, 0.45].

    The surface element is r (R + r cos v): v has the distribution function (v + k sin v)/2π, k = r/R, inverted by
    Newton's method.
    """

    def surface(self, n: int, generator: torch.Generator) -> Tensor:
        large = self.uniform(n, generator, 0.7, 1.0, many=1)
        k = self.uniform(n, generator, 0.2, 0.45, many=1)
        u, wanted = (2 * pi * self.uniform(n, generator) for _ in range(2))
        v = wanted.clone()
        for _ in range(NEWTON):
            v -= (v + k * v.sin() - wanted) / (1 + k * v.cos())
        out = large * (1 + k * v.cos())
        return torch.stack([out * u.cos(), out * u.sin(), large * k * v.sin()], 2)


@final
class Ellipsoid(Solid):
    """Half-axes ~ U[0.4, 1] each. A uniform direction d is kept with probability |A⁻¹d|/max: the surface element of
    d ↦ A d is proportional to |A⁻¹ d|."""

    def surface(self, n: int, generator: torch.Generator) -> Tensor:
        axes = self.uniform(n, generator, 0.4, 1.0, many=3)[:, None]
        d = torch.randn(n, CANDIDATES * self.points, 3, generator=generator, device=generator.device)
        d = d / d.norm(dim=2, keepdim=True)
        weight = (d / axes).norm(dim=2)
        # Kept ones first, in their random order; the largest possible weight is 1 / the shortest axis.
        kept = self.uniform(n, generator, many=d.shape[1]) < weight * axes.amin(2)
        first = kept.int().argsort(dim=1, descending=True, stable=True)[:, : self.points, None].expand(-1, -1, 3)
        return axes * d.gather(1, first)


@final
class Box(Solid):
    """A cuboid's six faces; half-edges ~ U[0.4, 0.9] each."""

    def surface(self, n: int, generator: torch.Generator) -> Tensor:
        half = self.uniform(n, generator, 0.4, 0.9, many=3)
        area = half.prod(1, keepdim=True) / half  # of a face across each axis
        axis = torch.multinomial(area, self.points, replacement=True, generator=generator)
        place = 2 * torch.rand(n, self.points, 3, generator=generator, device=generator.device) - 1
        side = (2 * (self.uniform(n, generator) < 0.5) - 1).to(place)
        place.scatter_(2, axis[:, :, None], side[:, :, None])
        return place * half[:, None]
