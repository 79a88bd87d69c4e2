"""The exact solvers that couplings share: an assignment for n and n points, a transport vertex for n and m."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from ot.lp.emd_wrap import emd_c
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from flowport.errors import FlowportError
from flowport.tensors import sent

# Longest list of pairs that a batch of n and m points may become.
LONGEST = 2**24
# Entropic potentials before the assignment (see `_reduced`): ε as a share of the mean cost, stage by stage, and rounds.
STAGES = (0.3, 0.02)
ROUNDS = 12
# POT's code for "optimal"
OPTIMAL = 1


def pair_count(n: int, m: int) -> int:
    """lcm(n, m): the shortest list of pairs that holds every source and every target equally often."""
    length = math.lcm(n, m)
    if length > LONGEST:
        raise FlowportError(
            f"{n} source and {m} target points would need {length} pairs for equal shares, more than {LONGEST}: choose "
            f"sizes with a common factor"
        )
    return length


def finite(cost: Tensor) -> Tensor:
    """The cost, or a FlowportError where it is not finite."""
    if not bool(torch.isfinite(cost.sum())) and not bool(torch.isfinite(cost).all()):  # one pass where all is well
        bad = int((~torch.isfinite(cost)).sum())
        raise FlowportError(f"the cost matrix has {bad} NaN or infinite entries: only finite points can be coupled")
    return cost


def _simplex(reduced: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vertex of the transportation polytope with whole-numbered marginals a and b, by POT's network simplex.

    The entry point below ``ot.emd``, which copies and checks. Whole numbers stay exact in its sums.
    """
    plan, _, _, _, code = emd_c(a, b, reduced, 100_000_000, 1, None, None)
    if code != OPTIMAL:
        raise FlowportError(f"the network simplex did not converge on {len(a)} and {len(b)} points (POT's code {code})")
    if not (np.array_equal(plan.sum(1), a) and np.array_equal(plan.sum(0), b) and np.array_equal(plan, np.rint(plan))):
        raise FlowportError(f"the transport plan of {len(a)} and {len(b)} points lost mass: rescale the data")
    return plan


def _lowered(cost: Tensor) -> Tensor:
    """cost minus its row minima, then minus its column minima, in place: every row and column holds a zero, and the
    optimum stays."""
    cost -= cost.amin(1, keepdim=True)
    cost -= cost.amin(0)
    return cost


def _reduced(cost: Tensor) -> Tensor:
    """C_ij − f_i − g_j ≥ 0 with the potentials of a few Sinkhorn rounds at falling ε: the same optimal permutations.

    Shortest augmenting paths start from the zero entries of this matrix and search outwards by its small ones, so the
    nearer f and g come to the true dual, the less is left to search. However rough the potentials are, the optimum
    stays what it was, up to rounding of the largest cost. (ε-scaling: Schmitzer 2019.) cost: (n, n) float64, kept.
    """
    cost = _lowered(cost.clone())
    some = cost[:: max(1, len(cost) // 64)]
    # The median, so that a few outliers do not set the unit of all others.
    scale = float(some.median()) or float(some.mean())
    for epsilon in STAGES if 1e-290 < scale < 1e290 else ():
        kernel = (cost * (-1 / (epsilon * scale))).exp_()
        u = torch.ones(len(cost), dtype=cost.dtype)
        for _ in range(ROUNDS):
            v = torch.mv(kernel.T, u).reciprocal_()
            u = torch.mv(kernel, v).reciprocal_()
        f, g = u.log_(), v.log_()
        if not bool(torch.isfinite(f).all() & torch.isfinite(g).all()):
            break  # an outlier's whole row or column vanished at this ε: the stages before are good enough
        cost -= (epsilon * scale * f)[:, None]
        cost -= epsilon * scale * g
    return _lowered(cost)


def permutation(cost: Tensor) -> Tensor:
    """argmin over permutations τ of Σ_i C[i, τ(i)], read off, never sampled. cost: (n, n) → (n,) int64 on its device.

    scipy's shortest augmenting paths from entropic potentials: 2 to 3 times faster than from C itself, more in few
    dimensions. Raises FlowportError for a cost that is not finite, or whose range is not.
    """
    with torch.no_grad():
        reduced = _reduced(finite(cost.detach().cpu()).double())
    _, columns = linear_sum_assignment(finite(reduced).numpy())
    return sent(torch.from_numpy(columns.astype(np.int64, copy=False)), cost.device)


def transport(cost: Tensor) -> tuple[Tensor, Tensor]:
    """(i, j), L = lcm(n, m) optimal pairs: source i stands exactly L/n times, target j exactly L/m times.

    min ⟨P, C⟩ over P 1 = L/n, Pᵀ 1 = L/m; a vertex of this polytope is whole-numbered, so the list has the marginals
    exactly. cost: (n, m). Raises FlowportError as :func:`permutation`, and for L > 2²⁴.
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
