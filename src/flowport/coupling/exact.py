"""Exact optimal transport inside the batch."""

import torch

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import SquaredEuclideanCost
from flowport.coupling.assignment import transport
from flowport.coupling.base import Coupling, Plan
from flowport.types import Pair


class ExactCoupling(Coupling):
    """π = argmin over couplings of the two batches of E_π c(x0, x1) (Pooladian et al. 2023, Tong et al. 2023).

    n and n points: a permutation, every point used once. n and m points: lcm(n, m) pairs with exact marginals.
    Every batch size keeps both marginals; only the transport cost depends on it. Without conditioning only: under a
    condition use ClassConditional or ConditionAware. cost: squared Euclidean where None.
    facts: cost, the mean cost of a pair.
    """

    def __init__(self, cost: Cost | None = None) -> None:
        self.cost = SquaredEuclideanCost() if cost is None else cost

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        cost = self.cost(pair.source, pair.target)
        i, j = transport(cost)
        return Plan(i, j, {"cost": cost[i, j].mean()})
