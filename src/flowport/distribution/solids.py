"""Surfaces of parametric solids in random pose and proportion, as clouds of points: fresh ones without end."""

from abc import abstractmethod
from math import pi
from typing import ClassVar, final

import torch
from torch import Tensor

from flowport.distribution.base import AnalyticDistribution
from flowport.errors import FlowportError
from flowport.modality import Cloud
from flowport.modality.cloud import rotations
from flowport.types import Sample

SCALE = 1 / 0.52
"""Brings the coordinates of a torus to a standard deviation near 1."""
NEWTON = 6
SPARE = 128
"""Draws of a rejection sampler beyond those that it needs on average, so that a cloud of one point is exact too."""


class Solid(AnalyticDistribution):
    """``points`` points, independent and uniform on the surface, jittered by N(0, jitter²), turned and scaled.

    turned: in random pose; otherwise upright, its own axis along z.

    A member writes ``surface`` and names in ``ranges`` from where to where each of its proportions is uniform. Clouds
    are exchangeable: the order of the points means nothing.
    """

    ranges: ClassVar[tuple[tuple[float, float], ...]]

    def __init__(self, points: int = 128, jitter: float = 0.01, turned: bool = True) -> None:
        if points < 1 or jitter < 0:
            raise FlowportError(f"a cloud needs points ≥ 1 and jitter ≥ 0, not points={points}, jitter={jitter}")
        self.points, self.jitter, self.turned = points, jitter, turned
        self.event_shape = (3, points)
        self.modality = Cloud()

    @abstractmethod
    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        """Clouds (n, points, 3), uniform on solids of proportions (n, len(ranges)), in the solids' own coordinates."""

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        low, high = torch.tensor(self.ranges, device=generator.device).T
        share = torch.rand(n, len(self.ranges), generator=generator, device=generator.device)
        cloud = self.surface(low + (high - low) * share, generator)
        cloud = cloud + self.jitter * torch.randn(cloud.shape, generator=generator, device=generator.device)
        posed = SCALE * cloud @ rotations(n, generator) if self.turned else SCALE * cloud
        return Sample(posed.transpose(1, 2).contiguous().to(self.device))

    def uniform(self, n: int, generator: torch.Generator, many: int = 0) -> Tensor:
        """(n, many or points) uniform numbers."""
        return torch.rand(n, many or self.points, generator=generator, device=generator.device)

    def kept(self, candidates: Tensor, probability: Tensor, generator: torch.Generator) -> Tensor:
        """The first ``points`` of the candidates (n, m, d) that are kept, each with its probability (n, m)."""
        kept = self.uniform(len(candidates), generator, candidates.shape[1]) < probability
        first = kept.int().argsort(dim=1, descending=True, stable=True)[:, : self.points, None]
        return candidates.gather(1, first.expand(-1, -1, candidates.shape[2]))


def directions(n: int, many: int, generator: torch.Generator) -> Tensor:
    """(n, many, 3) uniform unit vectors."""
    d = torch.randn(n, many, 3, generator=generator, device=generator.device)
    return d / d.norm(dim=2, keepdim=True)


def revolved(z: Tensor, radius: Tensor, turn: Tensor) -> Tensor:
    """Points at height z, at a distance from the axis, turned by a share of a whole turn: (n, N) each to (n, N, 3)."""
    return torch.stack([radius * (2 * pi * turn).cos(), radius * (2 * pi * turn).sin(), z], 2)


def faces(half: Tensor, many: int, generator: torch.Generator) -> Tensor:
    """(n, many, 3) points uniform on the surfaces of cuboids of half-edges (n, 3)."""
    n, device = len(half), generator.device
    area = half.prod(1, keepdim=True) / half  # of a face across each axis
    axis = torch.multinomial(area, many, replacement=True, generator=generator)
    place = 2 * torch.rand(n, many, 3, generator=generator, device=device) - 1
    side = (2 * (torch.rand(n, many, generator=generator, device=device) < 0.5) - 1).to(place)
    place.scatter_(2, axis[:, :, None], side[:, :, None])
    return place * half[:, None]


def leaning(k: Tensor, wanted: Tensor) -> Tensor:
    """Angles v of density (1 + k cos v)/2π at the levels ``wanted`` of its distribution function (v + k sin v)/2π,
    times 2π: Newton's method, for |k| < 1/2."""
    v = wanted.clone()
    for _ in range(NEWTON):
        v -= (v + k * v.sin() - wanted) / (1 + k * v.cos())
    return v


@final
class Torus(Solid):
    """Tube radius r around a circle of radius R; R ~ U[0.7, 1], r/R ~ U[0.2, 0.45].

    The surface element is r (R + r cos v): v has a density ∝ 1 + k cos v, k = r/R.
    """

    ranges = ((0.7, 1.0), (0.2, 0.45))

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        large, k = proportions.split(1, 1)
        u, wanted = (self.uniform(len(large), generator) for _ in range(2))
        v = leaning(k, 2 * pi * wanted)
        return revolved(large * k * v.sin(), large * (1 + k * v.cos()), u)


@final
class Sphere(Solid):
    """Radius ~ U[0.4, 1]."""

    ranges = ((0.4, 1.0),)

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        return proportions[:, None] * directions(len(proportions), self.points, generator)


@final
class Ellipsoid(Solid):
    """Half-axes ~ U[0.4, 1] each. A uniform direction d is kept with probability |A⁻¹d|/max: the surface element of
    d ↦ A d is proportional to |A⁻¹ d|. At least 0.4 of them are kept on average."""

    ranges = ((0.4, 1.0),) * 3

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        axes = proportions[:, None]
        d = directions(len(axes), 4 * self.points + SPARE, generator)
        # The largest possible weight is 1 / the shortest axis.
        return axes * self.kept(d, (d / axes).norm(dim=2) * axes.amin(2), generator)


@final
class Box(Solid):
    """A cuboid's six faces; half-edges ~ U[0.4, 0.9] each."""

    ranges = ((0.4, 0.9),) * 3

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        return faces(proportions, self.points, generator)


@final
class Capsule(Solid):
    """A cylinder of half-length h ~ U[0.5, 1] with half-balls of its radius r ~ U[0.25, 0.5] at its ends.

    By Archimedes' theorem a ball has as much surface between two heights as the cylinder around it, so that the height
    of a uniform point is uniform on [−h − r, h + r].
    """

    ranges = ((0.5, 1.0), (0.25, 0.5))

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        h, r = proportions.split(1, 1)
        z, turn = (self.uniform(len(h), generator) for _ in range(2))
        z = (2 * z - 1) * (h + r)
        return revolved(z, (r.square() - (z.abs() - h).clamp_min(0).square()).clamp_min(0).sqrt(), turn)
