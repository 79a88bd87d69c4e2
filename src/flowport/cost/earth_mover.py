"""The earth mover's distance between point clouds of equal size.

References:
    Rubner, Tomasi and Guibas 2000, "The Earth Mover's Distance as a Metric for Image Retrieval",
        doi:10.1023/A:1026543900054.
    Fan, Su and Guibas 2017, "A Point Set Generation Network for 3D Object Reconstruction from a Single Image",
        arXiv:1612.00603.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from flowport.cost.base import Cost, require_clouds
from flowport.cost.potentials import reduced
from flowport.errors import FlowportError
from flowport.tensors import to_device, to_host
from flowport.types import Sample

CHUNK = 2**22
"""Largest number of products between points in memory at once."""


@cache
def _workers(number: int, process: int) -> ThreadPoolExecutor:
    """Threads for the assignments of one process: those of a parent do not live on in a fork."""
    return ThreadPoolExecutor(number, "assignments")


def assignments(costs: Tensor) -> Tensor:
    """The optimal assignments of many problems, argmin over permutations τ of Σ_i C[i, τ(i)] for each, by scipy.

    The problems are shared among as many threads as torch uses, because scipy's solver releases the interpreter's lock.
    The result does not depend on their number.

    Args:
        costs: Costs C, (k, n, n) float64 on the host.

    Returns:
        τ, (k, n) int64.
    """

    def solved(problems: Iterable[NDArray[Any]]) -> list[Tensor]:
        return [torch.from_numpy(linear_sum_assignment(each)[1]) for each in problems]

    threads = min(torch.get_num_threads(), len(costs))
    if threads < 2:
        return torch.stack(solved(costs.numpy()))
    parts = [part.numpy() for part in costs.tensor_split(threads)]
    return torch.stack([order for part in _workers(threads, os.getpid()).map(solved, parts) for order in part])


def optimal_matching(a: Tensor, b: Tensor) -> Tensor:
    """The permutation p that minimises Σ_k |a_k − b_p(k)|² for each pair of clouds, by scipy on the CPU.

    On an accelerator the costs are reduced there (:func:`flowport.cost.potentials.reduced`), which takes four fifths of
    the search off the host, and copied once.

    Args:
        a: Clouds, (n, d, N).
        b: Clouds whose points are permuted, (n, d, N).

    Returns:
        Permutations, (n, N) int64, on the device of ``a``.
    """
    costs = -torch.einsum("ndi,ndj->nij", a.double(), b.double())
    if a.device.type != "cpu":
        costs = to_host(reduced(costs))
    return to_device(assignments(costs), a.device)


class EarthMoverCost(Cost):
    """Earth mover's distance of clouds (d, N): c(a, b) = W2²(a, b) = min over p of mean_k |a_k − b_p(k)|².

    p runs over the permutations of N points. Squared units of the points. Invariant under permutations of the points
    and under a common rotation of both clouds. Exact, by scipy pair by pair: about 1 ms a thread for 128 points.

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
