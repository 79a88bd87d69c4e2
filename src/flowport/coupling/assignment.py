"""Exact solvers of discrete optimal transport: assignment for n and n points, network simplex for n and m points.

References:
    Crouse 2016, "On implementing 2D rectangular assignment algorithms" (scipy), doi:10.1109/TAES.2016.140952.
    Bonneel et al. 2011, "Displacement interpolation using Lagrangian mass transport" (POT's network simplex),
        doi:10.1145/2070781.2024192.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from ot.lp.emd_wrap import emd_c
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from flowport.cost.potentials import ROUNDS, STAGES, lowered, reduced
from flowport.errors import FlowportError
from flowport.tensors import to_device, to_host

# Largest number of pairs for a batch of n and m points.
MAX_PAIRS = 2**24
# POT's status code of an optimal solution.
OPTIMAL = 1


def pair_count(n: int, m: int) -> int:
    """The least common multiple of n and m: the shortest list of pairs that uses all points of a side equally often.

    Args:
        n: Number of source points.
        m: Number of target points.

    Raises:
        FlowportError: When the list would be longer than ``MAX_PAIRS``.
    """
    length = math.lcm(n, m)
    if length > MAX_PAIRS:
        raise FlowportError(
            f"{n} source and {m} target points would need {length} pairs for equal shares, more than {MAX_PAIRS}: "
            "choose sizes with a common factor"
        )
    return length


def finite(cost: Tensor) -> Tensor:
    """The cost matrix, checked to be finite.

    Args:
        cost: Cost, (n, m).

    Raises:
        FlowportError: When an entry is NaN or infinite.
    """
    if not bool(torch.isfinite(cost.sum())) and not bool(torch.isfinite(cost).all()):  # one pass if all are finite
        bad = int((~torch.isfinite(cost)).sum())
        raise FlowportError(f"the cost matrix has {bad} NaN or infinite entries: only finite points can be coupled")
    return cost


def _simplex(reduced: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vertex of the transportation polytope with integer marginals a and b, by POT's network simplex.

    Calls the solver below ``ot.emd``, without the copies and checks of the latter. Sums of integers are exact.
    """
    plan, _, _, _, code = emd_c(a, b, reduced, 100_000_000, 1, None, None)
    if code != OPTIMAL:
        raise FlowportError(f"the network simplex did not converge on {len(a)} and {len(b)} points (POT's code {code})")
    if not (np.array_equal(plan.sum(1), a) and np.array_equal(plan.sum(0), b) and np.array_equal(plan, np.rint(plan))):
        raise FlowportError(f"the transport plan of {len(a)} and {len(b)} points lost mass: rescale the data")
    return plan


def _reduced(cost: Tensor) -> Tensor:
    """The reduced cost of one matrix on the CPU, where fewer operations and more reads are faster.

    See :func:`flowport.cost.potentials.reduced`. cost: (n, n) float64, not changed.
    """
    cost = lowered(cost.clone())
    subset = cost[:: max(1, len(cost) // 64)]
    # The median, which a few outliers do not change.
    scale = float(subset.median()) or float(subset.mean())
    for epsilon in STAGES if 1e-290 < scale < 1e290 else ():
        kernel = (cost * (-1 / (epsilon * scale))).exp_()
        u = torch.ones(len(cost), dtype=cost.dtype)
        for _ in range(ROUNDS):
            v = torch.mv(kernel.T, u).reciprocal_()
            u = torch.mv(kernel, v).reciprocal_()
        f, g = u.log_(), v.log_()
        if not bool(torch.isfinite(f).all() & torch.isfinite(g).all()):
            break  # the row or column of an outlier underflowed at this ε: the earlier stages suffice
        cost -= (epsilon * scale * f)[:, None]
        cost -= epsilon * scale * g
    return lowered(cost)


def _copied(cost: Tensor) -> Tensor:
    """The cost reduced on its device and copied to the host, the only wait of a matching; checked to be finite."""
    held = to_host(reduced(cost[None])[0])
    if not bool(torch.isfinite(held.sum())):
        finite(cost)  # which counts the entries that are not
        finite(held)
    return held


def permutation(cost: Tensor) -> Tensor:
    """The optimal assignment argmin over permutations τ of Σ_i C[i, τ(i)].

    Solved by scipy's shortest augmenting paths on costs reduced by entropic potentials: 2 to 3 times faster than on C
    itself, more in few dimensions.

    Args:
        cost: Cost C, (n, n).

    Returns:
        τ, (n,) int64, on the device of the cost.

    Raises:
        FlowportError: When the cost or its range is not finite.
    """
    with torch.no_grad():
        if cost.device.type == "cpu":
            searched = finite(_reduced(finite(cost.detach()).double()))
        else:
            searched = _copied(cost)
    _, columns = linear_sum_assignment(searched.numpy())
    return to_device(torch.from_numpy(columns.astype(np.int64, copy=False)), cost.device)


def transport(cost: Tensor) -> tuple[Tensor, Tensor]:
    """An optimal transport plan as a list of pairs (i, j), in which source i appears L/n and target j L/m times.

    Minimises ⟨P, C⟩ over P 1 = L/n, Pᵀ 1 = L/m with L = lcm(n, m). The vertices of this polytope are integer, so the
    list has the marginals exactly.

    Args:
        cost: Cost C, (n, m).

    Returns:
        Row and column indices, (L,) int64 each, on the device of the cost.

    Raises:
        FlowportError: When the cost is not finite, L exceeds ``MAX_PAIRS``, or the solver fails.
    """
    n, m = cost.shape
    if n == m:
        return torch.arange(n, device=cost.device), permutation(cost)
    length = pair_count(n, m)
    own = finite(to_host(cost.detach())).to(torch.float64, copy=True)
    matrix = finite(lowered(own)).numpy()
    plan = _simplex(matrix, np.full(n, float(length // n)), np.full(m, float(length // m)))
    rows, columns = plan.nonzero()
    copies = plan[rows, columns].astype(np.int64)
    i, j = (to_device(torch.from_numpy(np.repeat(index, copies)), cost.device) for index in (rows, columns))
    return i, j
