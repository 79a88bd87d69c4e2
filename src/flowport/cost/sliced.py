"""The sliced Wasserstein distance between point clouds.

References:
    Bonneel et al. 2015, "Sliced and Radon Wasserstein Barycenters of Measures", doi:10.1007/s10851-014-0506-3.
"""

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import squared_distances
from flowport.errors import FlowportError
from flowport.randomness import Randomness
from flowport.types import Sample


class SlicedCost(Cost):
    """Sliced Wasserstein distance of clouds (d, N): c(a, b) = mean over directions θ of W2²(θ·a, θ·b).

    Clouds count as uniform laws on their points, so the order of the points does not matter. On a line W2 compares
    sorted points, so every cloud becomes one vector of sorted projections and the cost a squared distance of these. It
    never exceeds the mean squared distance under the best assignment. Squared units of the points.

    Args:
        directions: Number of fixed directions θ, drawn uniformly on the sphere.
        seed: Seed of the directions.

    Raises:
        FlowportError: When ``directions`` is below 1, or the points are not clouds of one shape.
    """

    def __init__(self, directions: int = 24, seed: int = 0) -> None:
        if directions < 1:
            raise FlowportError(f"cost=sliced needs directions ≥ 1, not {directions}")
        self.directions, self.seed = directions, seed
        self._drawn: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    def _theta(self, x: Tensor) -> Tensor:
        """The directions, (directions, d), like points x (n, d, N): drawn and copied once."""
        kind = x.shape[1], x.device, x.dtype
        if kind not in self._drawn:
            theta = torch.randn(self.directions, x.shape[1], generator=Randomness(self.seed).generator("directions"))
            self._drawn[kind] = (theta / theta.norm(dim=1, keepdim=True)).to(x)
        return self._drawn[kind]

    def _sorted(self, x: Tensor) -> Tensor:
        theta = self._theta(x)
        return torch.einsum("kd,ndp->nkp", theta, x).sort(2).values

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        a, b = source.x, target.x
        if a.ndim != 3 or a.shape[1:] != b.shape[1:]:
            raise FlowportError(
                f"cost=sliced compares clouds (n, d, N) of one size, not {tuple(a.shape)} and {tuple(b.shape)}"
            )
        with torch.no_grad(), torch.autocast(a.device.type, enabled=False):
            return squared_distances(self._sorted(a.float()), self._sorted(b.float())) / (self.directions * a.shape[2])
