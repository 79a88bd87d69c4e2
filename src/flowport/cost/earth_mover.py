"""The earth mover's distance between point clouds of equal size.

References:
    Rubner, Tomasi and Guibas 2000, "The Earth Mover's Distance as a Metric for Image Retrieval",
        doi:10.1023/A:1026543900054.
    Fan, Su and Guibas 2017, "A Point Set Generation Network for 3D Object Reconstruction from a Single Image",
        arXiv:1612.00603.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from flowport.cost.base import Cost, require_clouds
from flowport.errors import FlowportError
from flowport.types import Sample

CHUNK = 2**22
"""Largest number of products between points in memory at once."""


def optimal_matching(a: Tensor, b: Tensor) -> Tensor:
    """The permutation p that minimises Σ_k |a_k − b_p(k)|² for each pair of clouds, by scipy on the CPU.

    Args:
        a: Clouds, (n, d, N).
        b: Clouds whose points are permuted, (n, d, N).

    Returns:
        Permutations, (n, N) int64, on the device of ``a``.
    """
    products = -torch.einsum("ndi,ndj->nij", a.double(), b.double()).cpu().numpy()
    best = [torch.from_numpy(linear_sum_assignment(each)[1]) for each in products]  # scipy, pair by pair
    return torch.stack(best).to(a.device)


class EarthMoverCost(Cost):
    """Earth mover's distance of clouds (d, N): c(a, b) = W2²(a, b) = min over p of mean_k |a_k − b_p(k)|².

    p runs over the permutations of N points. Squared units of the points. Invariant under permutations of the points
    and under a common rotation of both clouds. Exact, by scipy pair by pair: about 1 ms for 128 points.

    Raises:
        FlowportError: When the points are not clouds of one shape.
    """

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        x, y = source.x, target.x
        require_clouds("earth_mover", x, y)
        if x.shape[2] != y.shape[2]:
            raise FlowportError(
                f"cost=earth_mover needs clouds of one size, not of {x.shape[2]} and {y.shape[2]} points"
            )
        found = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
        step = max(1, CHUNK // x.shape[2] ** 2)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            for k, cloud in enumerate(x):
                for at in range(k + 1 if x is y else 0, len(y), step):
                    block = y[at : at + step]
                    order = optimal_matching(cloud.expand(len(block), -1, -1), block)
                    moved = block.gather(2, order[:, None].expand(-1, x.shape[1], -1))
                    found[k, at : at + step] = (cloud.double() - moved).square().sum(1).mean(1)
        return found + found.T if x is y else found
