"""What two clouds of points cost, whatever the order of their points."""

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import squared_distances
from flowport.errors import FlowportError
from flowport.randomness import Randomness
from flowport.types import Sample


class SlicedCost(Cost):
    """c(a, b) = mean over directions θ of W2²(θ·a, θ·b), clouds (d, N) as uniform laws (Bonneel et al. 2015).

    On a line W2 sorts, so every cloud becomes one vector of sorted projections and the cost one squared distance. It
    never exceeds the mean squared distance under the best assignment. directions: fixed, uniform on the sphere.
    Raises FlowportError for points that are not clouds (d, N) of one size.
    """

    def __init__(self, directions: int = 24, seed: int = 0) -> None:
        if directions < 1:
            raise FlowportError(f"cost=sliced needs directions ≥ 1, not {directions}")
        self.directions, self.seed = directions, seed

    def _sorted(self, x: Tensor) -> Tensor:
        theta = torch.randn(self.directions, x.shape[1], generator=Randomness(self.seed).generator("directions"))
        theta = (theta / theta.norm(dim=1, keepdim=True)).to(x)
        return torch.einsum("kd,ndp->nkp", theta, x).sort(2).values

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        a, b = source.x, target.x
        if a.ndim != 3 or a.shape[1:] != b.shape[1:]:
            raise FlowportError(
                f"cost=sliced compares clouds (n, d, N) of one size, not {tuple(a.shape)} and {tuple(b.shape)}"
            )
        with torch.no_grad(), torch.autocast(a.device.type, enabled=False):
            return squared_distances(self._sorted(a.float()), self._sorted(b.float())) / (self.directions * a.shape[2])
