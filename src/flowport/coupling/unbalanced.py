"""Entropic transport that may drop outliers: both marginals are wishes, not laws."""

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import SquaredEuclideanCost
from flowport.coupling import drawing
from flowport.coupling.assignment import pair_count
from flowport.coupling.base import Coupling, Plan
from flowport.coupling.entropic import sharpness, solve
from flowport.errors import FlowportError
from flowport.types import Pair


class UnbalancedCoupling(Coupling):
    """π = argmin ⟨P, C⟩ + ε KL(P | a bᵀ) + ρ KL(P1 | a) + ρ KL(Pᵀ1 | b), a = 1/n, b = 1/m (Chizat et al. 2018).

    mass_penalty and epsilon are relative to the mean cost: ρ = mass_penalty · mean(C). Mass travels about as far as a
    cost of 2ρ and is dropped beyond. As many pairs as there are points are drawn from P by systematic resampling. It
    changes both marginals on purpose. The plan is that of ``ot.unbalanced.sinkhorn_unbalanced``, solved here in
    logarithms on the tensors' device, which POT does not do.
    facts: cost, lost_mass (1 − ΣP; below 0 where mass was made), plan_entropy, iterations. Raises FlowportError where
    iterations do not suffice.
    """

    keeps_marginals = False

    def __init__(
        self,
        mass_penalty: float = 1.0,
        epsilon: float = 0.05,
        iterations: int = 5000,
        tolerance: float = 1e-4,
        cost: Cost | None = None,
    ) -> None:
        if not (epsilon > 0 and mass_penalty > 0):
            raise FlowportError(
                f"coupling.mass_penalty={mass_penalty} and coupling.epsilon={epsilon} must be positive (shares of the "
                f"mean cost)"
            )
        self.mass_penalty, self.epsilon = mass_penalty, epsilon
        self.iterations, self.tolerance = iterations, tolerance
        self.cost = SquaredEuclideanCost() if cost is None else cost

    def _solve(self, cost: Tensor) -> tuple[Tensor, int]:
        with torch.no_grad(), torch.autocast(cost.device.type, enabled=False):
            epsilon = self.epsilon * max(float(cost.mean()), 1e-30)
            damping = self.mass_penalty / (self.mass_penalty + self.epsilon)
            found = solve(cost, epsilon, damping, self.iterations, self.tolerance)
        if not found.error < self.tolerance:
            raise FlowportError(
                f"unbalanced transport still moved by {found.error:.2g} after {found.iterations} iterations, more than "
                f"{self.tolerance:.2g}: raise coupling.epsilon or coupling.iterations"
            )
        return found.plan(), found.iterations

    def plan(self, pair: Pair) -> Tensor:
        """(n, m) transport plan, of a mass that is not 1."""
        return self._solve(self.cost(pair.source, pair.target))[0]

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        cost = self.cost(pair.source, pair.target)
        plan, iterations = self._solve(cost)
        i, j = drawing.pairs(plan, pair_count(*plan.shape), generator)
        facts = {
            "cost": cost[i, j].mean().item(),
            "lost_mass": 1 - float(plan.sum()),
            "plan_entropy": sharpness(plan),
            "iterations": float(iterations),
        }
        return Plan(i, j, facts)
