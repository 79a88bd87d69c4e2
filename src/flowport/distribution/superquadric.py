"""Point clouds on superquadrics, shapes between diamonds, ellipsoids and boxes."""

from typing import final

import torch
from torch import Tensor

from flowport.distribution.solids import EXTRA_CANDIDATES, Solid, faces

TINY = 1e-12


@final
class Superquadric(Solid):
    """The superquadric g(x₁, x₂, x₃) = ((|x₁/a|^p + |x₂/b|^p)^(q/p) + |x₃/c|^q)^(1/q) = 1 with random proportions.

    a, b, c ~ U[0.5, 0.9] and p, q ~ U[1.5, 6]; p = q = 2 is an ellipsoid, large exponents approach a box. A uniform
    point y on the surface of the bounding box is projected to x = y / g(y). The tangent plane at x has the distance
    1/|∇g(x)| from the origin and the face of y has the distance e, its half-edge, so the projection scales a surface
    element by e |∇g(x)| / g(y)³ ≤ max(a, b, c) |(1/a, 1/b, 1/c)|. The point y is accepted with the ratio of the two
    sides as probability, at least 0.15 on average.

    References:
        Barr 1981, "Superquadrics and angle-preserving transformations", doi:10.1109/MCG.1981.1673799.
    """

    ranges = ((0.5, 0.9),) * 3 + ((1.5, 6.0),) * 2

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        axes, p, q = proportions.split([3, 1, 1], 1)
        y = faces(axes, 16 * self.points + EXTRA_CANDIDATES, generator)
        a, b, c = (y / axes[:, None]).abs().unbind(2)
        edge = axes.gather(1, torch.stack([a, b, c], 2).argmax(2))
        s = (a**p + b**p) ** (1 / p)
        g = (s**q + c**q) ** (1 / q)
        around = (s / g) ** (q - 1) * torch.stack([a, b]).div(s.clamp_min(TINY)) ** (p - 1)
        slope = torch.stack([*around, (c / g) ** (q - 1)], 2) / axes[:, None]
        bound = axes.amax(1, keepdim=True) * (1 / axes).norm(dim=1, keepdim=True)
        return self.accepted(y / g[:, :, None], edge * slope.norm(dim=2) / g**3 / bound, generator)
