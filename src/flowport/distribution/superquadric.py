"""Superquadrics: between diamonds, ellipsoids and boxes, as clouds of points."""

from typing import final

import torch
from torch import Tensor

from flowport.distribution.solids import SPARE, Solid, faces

TINY = 1e-12


@final
class Superquadric(Solid):
    """g(x) = ((|x/a|^p + |y/b|^p)^(q/p) + |z/c|^q)^(1/q) = 1 (Barr 1981); a, b, c ~ U[0.5, 0.9], p, q ~ U[1.5, 6].

    2 and 2 make an ellipsoid, large exponents a box. A point y uniform on the box around it is drawn to x = y/g(y). The
    plane that touches the surface at x has the distance 1/|∇g(x)| from the middle, that of y's face the distance e,
    its half-edge, so that a surface element of the box shrinks by g(y)^(−3) e |∇g(x)|. It is at most
    max(e) |(1/a, 1/b, 1/c)|: y is kept with the ratio of the two, 0.15 or more of them on average.
    """

    ranges = ((0.5, 0.9),) * 3 + ((1.5, 6.0),) * 2

    def surface(self, proportions: Tensor, generator: torch.Generator) -> Tensor:
        axes, p, q = proportions.split([3, 1, 1], 1)
        y = faces(axes, 16 * self.points + SPARE, generator)
        a, b, c = (y / axes[:, None]).abs().unbind(2)
        edge = axes.gather(1, torch.stack([a, b, c], 2).argmax(2))
        s = (a**p + b**p) ** (1 / p)
        g = (s**q + c**q) ** (1 / q)
        around = (s / g) ** (q - 1) * torch.stack([a, b]).div(s.clamp_min(TINY)) ** (p - 1)
        slope = torch.stack([*around, (c / g) ** (q - 1)], 2) / axes[:, None]
        bound = axes.amax(1, keepdim=True) * (1 / axes).norm(dim=1, keepdim=True)
        return self.kept(y / g[:, :, None], edge * slope.norm(dim=2) / g**3 / bound, generator)
