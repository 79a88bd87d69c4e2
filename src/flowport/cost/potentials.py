"""Costs less potentials of entropic transport, from which an exact assignment needs a shorter search.

References:
    Schmitzer 2019, "Stabilized Sparse Scaling Algorithms for Entropy Regularized Transport Problems" (ε-scaling),
        arXiv:1610.06519.
"""

import torch
from torch import Tensor

# ε of each stage in units of the median of the lowered costs, and Sinkhorn iterations per stage.
STAGES = (0.3, 0.02)
ROUNDS = 12


def lowered(costs: Tensor) -> Tensor:
    """Costs minus their row minima, then minus their column minima, in place.

    Every row and column then holds a zero; the optimal permutations stay the same.

    Args:
        costs: Costs, (…, n, n).
    """
    costs -= costs.amin(-1, keepdim=True)
    costs -= costs.amin(-2, keepdim=True)
    return costs


def reduced(costs: Tensor) -> Tensor:
    """The reduced costs C_ij − f_i − g_j ≥ 0 of many problems at once, in float64, without a read by the host.

    f and g come from a few Sinkhorn iterations at decreasing ε. The algorithm of shortest augmenting paths starts from
    the zeros of this matrix and searches its small entries, so the search is shorter the closer f and g are to the dual
    solution. The optimal permutations are those of C for any f and g, up to rounding of the largest cost. A problem
    whose kernel underflows at an ε, because of an outlier, skips that stage. For matrices of a few hundred rows on the
    CPU the tensor operations take longer than the search that they save.

    Args:
        costs: Costs C, (k, n, n), not changed.
    """
    costs = lowered(costs.detach().to(torch.float64, copy=True))
    subset = costs[:, :: max(1, costs.shape[1] // 64)].flatten(1)
    # The median, which a few outliers do not change.
    middle = subset.sort(1).values[:, (subset.shape[1] - 1) // 2]  # torch.median is not deterministic on CUDA
    scale = torch.where(middle > 0, middle, subset.mean(1))[:, None, None]
    for stage in STAGES:
        epsilon = stage * scale
        kernel = (costs / -epsilon).exp_()
        u = torch.ones_like(costs[:, :, :1])
        for _ in range(ROUNDS):
            v = torch.bmm(kernel.mT, u).reciprocal_()
            u = torch.bmm(kernel, v).reciprocal_()
        shift = epsilon * u.log() + (epsilon * v.log()).mT
        usable = shift.isfinite().all(2, keepdim=True).all(1, keepdim=True)
        costs = torch.where(usable, costs - shift, costs)
    return lowered(costs)
