"""Exact transport of a share of the mass: the cheapest part goes, the rest stays unused."""

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
    """π = argmin ⟨P, C⟩, P ≥ 0, P 1 ≤ 1/n, Pᵀ 1 ≤ 1/m, ΣP = mass (Caffarelli and McCann 2010; POT's solver).

    mass: share in (0, 1] that is transported. Points that are far from everything find no partner, so it changes
    both marginals on purpose. As many pairs as there are points are drawn from P by systematic resampling.
    cost: squared Euclidean where None. facts: cost, lost_mass = 1 − ΣP. Raises FlowportError for a mass out of range
    and where the solver misses its mass.
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
        # one scale for all data: POT compares costs with a fixed tolerance
        values = (matrix / matrix.mean().clamp(min=1e-30)).cpu().numpy()
        a, b = np.full(n, 1 / n), np.full(m, 1 / m)
        plan = ot.partial.partial_wasserstein(a, b, values, m=self.mass, numItermax=100_000_000)
        excess = max(float((plan.sum(1) - a).max()), float((plan.sum(0) - b).max()))
        if not (abs(float(plan.sum()) - self.mass) < 1e-6 and excess < 1e-9):
            raise FlowportError(f"partial transport moved {float(plan.sum()):.6f} of the mass instead of {self.mass}")
        return torch.from_numpy(np.ascontiguousarray(plan)).to(cost.device)

    def plan(self, pair: Pair) -> Tensor:
        """(n, m) transport plan of total mass ``mass``."""
        return self._solve(self.cost(pair.source, pair.target))

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        cost = self.cost(pair.source, pair.target)
        plan = self._solve(cost)
        i, j = drawing.pairs(plan, pair_count(*plan.shape), generator)
        return Plan(i, j, {"cost": cost[i, j].mean().item(), "lost_mass": 1 - float(plan.sum())})
