"""How far the points of two clouds are from the other cloud's nearest point."""

import torch
from jaxtyping import Float
from torch import Tensor

from flowport.cost.base import Cost, refuse_no_clouds
from flowport.types import Sample

CHUNK = 2**18
"""Distances between points that are held at once: they stay in the cache of a processor, which is 8 times faster."""


def chamfer_of_pairs(a: Float[Tensor, "n d p"], b: Float[Tensor, "n d q"]) -> Tensor:
    """CD of each pair of clouds -> (n,) float64, see :class:`Chamfer`."""
    a, b = a.double(), b.double()
    lengths = a.square().sum(1)[:, :, None] + b.square().sum(1)[:, None]
    gap = torch.baddbmm(lengths, a.transpose(1, 2), b, alpha=-2).clamp_min_(0)
    return gap.amin(2).mean(1) + gap.amin(1).mean(1)


def chamfer(x: Float[Tensor, "n d p"], y: Float[Tensor, "m d q"]) -> Tensor:
    """CD of all pairs of clouds -> (n, m) float64; half of the work where x is y."""
    found = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    step = max(1, CHUNK // (x.shape[2] * y.shape[2]))
    for k, cloud in enumerate(x):
        for at in range(k + 1 if x is y else 0, len(y), step):
            some = y[at : at + step]
            found[k, at : at + step] = chamfer_of_pairs(cloud.expand(len(some), -1, -1), some)
    return found + found.T if x is y else found


class ChamferCost(Cost):
    """c(a, b) = mean_i min_j |a_i − b_j|² + mean_j min_i |a_i − b_j|² for clouds (d, N), whatever their order.

    Squared units of the points. (Fan, Su & Guibas 2017; here with means, so that it does not grow with the points.)
    Clouds turned together keep it. Raises FlowportError for points that are not clouds of one dimension.
    """

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        refuse_no_clouds("chamfer", source.x, target.x)
        with torch.no_grad(), torch.autocast(source.x.device.type, enabled=False):
            return chamfer(source.x, target.x)
