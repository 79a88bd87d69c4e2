"""Exact optimal transport between the two point sets of a batch.

References:
    Pooladian et al. 2023, "Multisample Flow Matching: Straightening Flows with Minibatch Couplings", arXiv:2304.14772.
    Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
        arXiv:2302.00482.
"""

import torch

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import SquaredEuclideanCost
from flowport.coupling.assignment import transport
from flowport.coupling.base import Coupling, Plan
from flowport.types import Pair


class ExactCoupling(Coupling):
    """Minibatch optimal transport: π minimises E_π c(x0, x1) over the couplings of the two batches.

    For n and n points π is a permutation that uses every point once. For n and m points it is a list of lcm(n, m) pairs
    with exact marginals. Both marginals are unchanged for every batch size; only the transport cost depends on it.
    For unconditional flows: under a condition use ClassConditionalCoupling or ConditionAwareCoupling.

    Facts: cost, the mean cost of a pair.

    Args:
        cost: Cost c; squared Euclidean where None.
    """

    def __init__(self, cost: Cost | None = None) -> None:
        self.cost = SquaredEuclideanCost() if cost is None else cost

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        cost = self.cost(pair.source, pair.target)
        i, j = transport(cost)
        return Plan(i, j, {"cost": cost[i, j].mean()})
