"""Point clouds on the surfaces of parametric solids with random proportions and poses."""

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
"""Factor that brings the coordinates of a torus to a standard deviation near 1."""
NEWTON = 6
"""Newton steps of ``angle_quantile``."""
EXTRA_CANDIDATES = 128
"""Additional candidates of a rejection sampler, so that small clouds get enough accepted points too."""


class Solid(AnalyticDistribution):
    """A random solid, shown as a cloud of independent uniform points on its surface, (3, points).

    A point is SCALE · R (y + jitter · z): y uniform on the surface of a solid with random proportions, z ~ N(0, I), and
    R a uniformly random rotation per cloud. The order of the points has no meaning. A member provides ``surface`` and
    declares ``ranges``.

    Args:
        points: Points of a cloud.
        jitter: Standard deviation of the noise of each coordinate, before the scaling.
        turned: Whether each cloud is rotated at random; otherwise the axis of the solid is z.

    Attributes:
        ranges: Interval (low, high) of each uniformly distributed proportion.

    Raises:
        FlowportError: When points is less than 1 or jitter is negative.

    To add a member: see ``Distribution``; the tests of ``surface`` are in tests/distribution/test_solids.py.
    """

    ranges: ClassVar[tuple[tuple[float, float], ...]]

    def __init__(self, points: int = 128, jitter: float = 0.01, turned: bool = True) -> None:
        if points < 1 or jitter < 0:
            raise FlowportError(f"a cloud needs points ≥ 1 and jitter ≥ 0, not points={points}, jitter={jitter}")
        self.points, self.jitter, self.turned = points, jitter, turned
        self.event_shape = (3, points)
        self.modality, self.bounds = Cloud(), torch.tensor(self.ranges)

    @abstractmethod
    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        """Points that are uniform by area on the surfaces of n solids, (n, points, 3), in the solids' own coordinates.

        Args:
            proportions: Proportions of each solid within ``ranges``, (n, len(ranges)).
            generator: Source of randomness.
        """

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        low, high = self.bounds.to(generator.device).T
        share = torch.rand(n, len(self.ranges), generator=generator, device=generator.device)
        cloud = self.surface(low + (high - low) * share, generator)
        cloud = cloud + self.jitter * torch.randn(cloud.shape, generator=generator, device=generator.device)
        posed = SCALE * cloud @ rotations(n, generator) if self.turned else SCALE * cloud
        return Sample(posed.transpose(1, 2).contiguous().to(self.device))

    def uniform(self, n: int, generator: torch.Generator, many: int = 0) -> Tensor:
        """Independent uniform numbers in [0, 1), (n, many).

        Args:
            n: Number of clouds.
            generator: Source of randomness.
            many: Numbers per cloud; 0 for one per point.
        """
        return torch.rand(n, many or self.points, generator=generator, device=generator.device)

    def accepted(self, candidates: Tensor, probability: Tensor, generator: torch.Generator) -> Tensor:
        """Rejection sampling: the first ``points`` accepted candidates of each cloud, (n, points, d).

        With fewer accepted candidates than points, which must be improbable, rejected ones fill the remaining places.

        Args:
            candidates: Candidates, (n, m, d) with m well above points / acceptance rate.
            probability: Acceptance probability of each candidate, (n, m).
            generator: Source of randomness.
        """
        accepted = self.uniform(len(candidates), generator, candidates.shape[1]) < probability
        first = accepted.int().argsort(dim=1, descending=True, stable=True)[:, : self.points, None]
        return candidates.gather(1, first.expand(-1, -1, candidates.shape[2]))


def directions(n: int, many: int, generator: torch.Generator) -> Tensor:
    """Uniform unit vectors in R³, (n, many, 3).

    Args:
        n: Number of clouds.
        many: Vectors per cloud.
        generator: Source of randomness.
    """
    d = torch.randn(n, many, 3, generator=generator, device=generator.device)
    return d / d.norm(dim=2, keepdim=True)


def revolved(z: Tensor, radius: Tensor, turn: Tensor) -> Tensor:
    """Cylindrical to Cartesian coordinates, (r cos 2πa, r sin 2πa, z), (n, N, 3).

    Args:
        z: Heights, (n, N).
        radius: Distances r from the axis, (n, N).
        turn: Angles a around the axis as fractions of a full turn, (n, N).
    """
    return torch.stack([radius * (2 * pi * turn).cos(), radius * (2 * pi * turn).sin(), z], 2)


def faces(half: Tensor, many: int, generator: torch.Generator) -> Tensor:
    """Uniform points on the surfaces of cuboids, (n, many, 3).

    Args:
        half: Half-edges, (n, 3).
        many: Points per cuboid.
        generator: Source of randomness.
    """
    n, device = len(half), generator.device
    area = half.prod(1, keepdim=True) / half  # of the faces orthogonal to each axis, up to a factor
    axis = torch.multinomial(area, many, replacement=True, generator=generator)
    place = 2 * torch.rand(n, many, 3, generator=generator, device=device) - 1
    side = (2 * (torch.rand(n, many, generator=generator, device=device) < 0.5) - 1).to(place)
    place.scatter_(2, axis[:, :, None], side[:, :, None])
    return place * half[:, None]


def angle_quantile(k: Tensor, wanted: Tensor) -> Tensor:
    """Quantiles of the angle density (1 + k cos v) / 2π on [0, 2π], by Newton's method.

    The result solves v + k sin v = wanted.

    Args:
        k: Amplitude of the density, |k| < 1/2, broadcastable to the levels.
        wanted: 2π times the levels of the distribution function.
    """
    v = wanted.clone()
    for _ in range(NEWTON):
        v -= (v + k * v.sin() - wanted) / (1 + k * v.cos())
    return v


@final
class Torus(Solid):
    """A torus, the tube of radius r around a circle of radius R ~ U[0.7, 1], with k = r/R ~ U[0.2, 0.45].

    The surface element is r (R + r cos v) du dv, so the angle v around the tube has a density ∝ 1 + k cos v.
    """

    ranges = ((0.7, 1.0), (0.2, 0.45))

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        large, k = proportions.split(1, 1)
        u, level = (self.uniform(len(large), generator) for _ in range(2))
        v = angle_quantile(k, 2 * pi * level)
        return revolved(large * k * v.sin(), large * (1 + k * v.cos()), u)


@final
class Sphere(Solid):
    """A sphere of radius ~ U[0.4, 1]."""

    ranges = ((0.4, 1.0),)

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        return proportions[:, None] * directions(len(proportions), self.points, generator)


@final
class Ellipsoid(Solid):
    """An ellipsoid with independent half-axes ~ U[0.4, 1].

    The surface element of d ↦ A d, A = diag(half-axes), is proportional to |A⁻¹ d|: a uniform unit vector d is accepted
    with the probability |A⁻¹ d| / max |A⁻¹ d| ≥ 0.4.
    """

    ranges = ((0.4, 1.0),) * 3

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        axes = proportions[:, None]
        d = directions(len(axes), 4 * self.points + EXTRA_CANDIDATES, generator)
        # max |A⁻¹ d| = 1 / the shortest half-axis
        return axes * self.accepted(d, (d / axes).norm(dim=2) * axes.amin(2), generator)


@final
class Box(Solid):
    """A cuboid with independent half-edges ~ U[0.4, 0.9]."""

    ranges = ((0.4, 0.9),) * 3

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        return faces(proportions, self.points, generator)


@final
class Capsule(Solid):
    """A cylinder of half-length h ~ U[0.5, 1] and radius r ~ U[0.25, 0.5], closed by two hemispheres.

    By Archimedes' theorem a sphere has the same area between two heights as the cylinder around it, so the height of a
    uniform point is uniform on [−h − r, h + r].
    """

    ranges = ((0.5, 1.0), (0.25, 0.5))

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        h, r = proportions.split(1, 1)
        z, turn = (self.uniform(len(h), generator) for _ in range(2))
        z = (2 * z - 1) * (h + r)
        return revolved(z, (r.square() - (z.abs() - h).clamp_min(0).square()).clamp_min(0).sqrt(), turn)
