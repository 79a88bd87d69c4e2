"""Partial optimal transport: only a share of the mass is transported.

References:
    Caffarelli and McCann 2010, "Free boundaries in optimal transport and Monge-Ampère obstacle problems",
        doi:10.4007/annals.2010.171.673.
    Chapel, Alaya and Gasso 2020, "Partial Optimal Transport with Applications on Positive-Unlabeled Learning",
        arXiv:2002.08276.
"""

import numpy as np
import ot
import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import SquaredEuclideanCost
from flowport.coupling import drawing
from flowport.coupling.assignment import finite, pair_count
from flowport.coupling.base import Coupling, Plan
from flowport.errors import FlowportError
from flowport.types import Pair


class PartialCoupling(Coupling):
    """Partial optimal transport: P = argmin ⟨P, C⟩ subject to P ≥ 0, P 1 ≤ 1/n, Pᵀ 1 ≤ 1/m, ΣP = mass.

    The plan is solved by POT; lcm(n, m) pairs are drawn from it by systematic resampling. Points that are far from all
    others find no partner, so both marginals change by design.

    ``mass`` is a share of the points whatever the cost's scale, but which points find no partner depends on the whole
    cost: under a shift between source and target larger than their spread, those that lie farthest from the other side
    are left out, not the outliers. Centre both sides first, or use coupling=unbalanced, where the shift does not count.

    Facts: cost, the mean cost of the drawn pairs; lost_mass = 1 − ΣP.

    Args:
        mass: Share of the mass that is transported, in (0, 1].
        cost: Cost C; squared Euclidean where None.

    Raises:
        FlowportError: When ``mass`` is not in (0, 1], or the solver misses it.
    """

    keeps_marginals = False

    def __init__(self, mass: float = 0.9, cost: Cost | None = None) -> None:
        if not 0 < mass <= 1:
            raise FlowportError(
                f"coupling.mass={mass} is not in (0, 1]: it is the share of the mass that is transported"
            )
        self.mass = mass
        self.cost = SquaredEuclideanCost() if cost is None else cost

    def _solve(self, cost: Tensor) -> Tensor:
        matrix = finite(cost).double()
        n, m = matrix.shape
        if float(matrix.max() - matrix.min()) <= torch.finfo(cost.dtype).eps * float(matrix.abs().max()):
            return torch.full_like(matrix, self.mass / (n * m))  # all costs are equal: every plan is optimal
        # POT compares costs with a fixed tolerance, so they are scaled to a median of 1, which outliers do not move
        scale = float(matrix.median()) or float(matrix.mean())
        values = (matrix / scale).cpu().numpy()
        a, b = np.full(n, 1 / n), np.full(m, 1 / m)
        plan = ot.partial.partial_wasserstein(a, b, values, m=self.mass, numItermax=100_000_000)
        excess = max(float((plan.sum(1) - a).max()), float((plan.sum(0) - b).max()))
        if not (abs(float(plan.sum()) - self.mass) < 1e-6 and excess < 1e-9):
            raise FlowportError(f"partial transport moved {float(plan.sum()):.6f} of the mass instead of {self.mass}")
        return torch.from_numpy(np.ascontiguousarray(plan)).to(cost.device)

    def plan(self, pair: Pair) -> Tensor:
        """The transport plan of a batch, (n, m) float64, of total mass ``mass``.

        Args:
            pair: Source and target points, n and m rows.
        """
        return self._solve(self.cost(pair.source, pair.target))

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        cost = self.cost(pair.source, pair.target)
        plan = self._solve(cost)
        i, j = drawing.pairs(plan, pair_count(*plan.shape), generator)
        return Plan(i, j, {"cost": cost[i, j].mean().item(), "lost_mass": 1 - float(plan.sum())})
