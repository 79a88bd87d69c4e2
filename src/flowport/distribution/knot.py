"""Point clouds on tubes around trefoil knots."""

from math import pi
from typing import final

import torch
from torch import Tensor

from flowport.distribution.solids import EXTRA_CANDIDATES, Solid, angle_quantile


@final
class Knot(Solid):
    """The tube of radius s a around the trefoil knot s c(t), c = (sin t + 2 sin 2t, cos t − 2 cos 2t, −q sin 3t).

    s ~ U[0.33, 0.45], q ~ U[0.8, 1.3] and a ~ U[0.25, 0.45], for which the tube does not intersect itself. In the
    Frenet frame (T, N, B) of c, with the curvature κ, the point c + a (cos θ N + sin θ B) has the surface element a
    |c′| (1 − a κ cos θ) dt dθ with |c′|² = 17 + 8 cos 3t + 9 q² cos² 3t. So a uniform t is accepted with the
    probability |c′| / √(25 + 9 q²), over 0.75 on average, and θ given t has a density ∝ 1 − a κ cos θ.

    References:
        do Carmo 2016, "Differential geometry of curves and surfaces", second edition, Dover, ISBN 978-0-486-80699-0.
    """

    ranges = ((0.33, 0.45), (0.8, 1.3), (0.25, 0.45))

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        scale, q, a = proportions.split(1, 1)
        t = 2 * pi * self.uniform(len(q), generator, 2 * self.points + EXTRA_CANDIDATES)
        wave = (3 * t).cos()
        speed = (17 + 8 * wave + 9 * q.square() * wave.square()).sqrt()
        t = self.accepted(t[:, :, None], speed / (25 + 9 * q.square()).sqrt(), generator)[:, :, 0]
        curve, first, second = trefoil(t, q)
        binormal = torch.linalg.cross(first, second)
        curvature = binormal.norm(dim=2) / first.norm(dim=2) ** 3
        binormal = binormal / binormal.norm(dim=2, keepdim=True)
        normal = torch.linalg.cross(binormal, first / first.norm(dim=2, keepdim=True))
        angle = angle_quantile(-a * curvature, 2 * pi * self.uniform(len(q), generator))[:, :, None]
        return scale[:, None] * (curve + a[:, None] * (angle.cos() * normal + angle.sin() * binormal))


def trefoil(t: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The trefoil c(t) of ``Knot`` and its first two derivatives, each (n, N, 3).

    Args:
        t: Parameters of the curve, (n, N).
        q: Height of each knot, (n, 1).
    """
    s, c, s2, c2, s3, c3 = t.sin(), t.cos(), (2 * t).sin(), (2 * t).cos(), (3 * t).sin(), (3 * t).cos()
    return (
        torch.stack([s + 2 * s2, c - 2 * c2, -q * s3], 2),
        torch.stack([c + 4 * c2, 4 * s2 - s, -3 * q * c3], 2),
        torch.stack([-s - 8 * s2, 8 * c2 - c, 9 * q * s3], 2),
    )
