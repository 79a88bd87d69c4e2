"""Exact solvers of discrete optimal transport: assignment for n and n points, network simplex for n and m points.

References:
    Crouse 2016, "On implementing 2D rectangular assignment algorithms" (scipy), doi:10.1109/TAES.2016.140952.
    Bonneel et al. 2011, "Displacement interpolation using Lagrangian mass transport" (POT's network simplex),
        doi:10.1145/2070781.2024192.
    Schmitzer 2019, "Stabilized Sparse Scaling Algorithms for Entropy Regularized Transport Problems" (ε-scaling),
        arXiv:1610.06519.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from ot.lp.emd_wrap import emd_c
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from flowport.errors import FlowportError
from flowport.tensors import to_device

# Largest number of pairs for a batch of n and m points.
MAX_PAIRS = 2**24
# Entropic potentials before the assignment (see `_reduced`): ε of each stage in units of the median reduced cost, and
# Sinkhorn iterations per stage.
STAGES = (0.3, 0.02)
ROUNDS = 12
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


def _lowered(cost: Tensor) -> Tensor:
    """The cost minus its row minima, then minus its column minima, in place.

    Every row and column then holds a zero; the optimal permutations stay the same.
    """
    cost -= cost.amin(1, keepdim=True)
    cost -= cost.amin(0)
    return cost


def _reduced(cost: Tensor) -> Tensor:
    """The reduced cost C_ij − f_i − g_j ≥ 0, f and g from a few Sinkhorn iterations at decreasing ε.

    The algorithm of shortest augmenting paths starts from the zeros of this matrix and searches its small entries, so
    the search is shorter the closer f and g are to the dual solution. The optimal permutations are those of C for any f
    and g, up to rounding of the largest cost. cost: (n, n) float64, not changed.
    """
    cost = _lowered(cost.clone())
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
    return _lowered(cost)


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
        reduced = _reduced(finite(cost.detach().cpu()).double())
    _, columns = linear_sum_assignment(finite(reduced).numpy())
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
    own = finite(cost.detach()).cpu().to(torch.float64, copy=True)
    matrix = finite(_lowered(own)).numpy()
    plan = _simplex(matrix, np.full(n, float(length // n)), np.full(m, float(length // m)))
    rows, columns = plan.nonzero()
    copies = plan[rows, columns].astype(np.int64)
    i, j = (torch.from_numpy(np.repeat(index, copies)).to(cost.device) for index in (rows, columns))
    return i, j
