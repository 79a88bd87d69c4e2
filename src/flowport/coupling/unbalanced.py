"""Unbalanced entropic optimal transport: marginals are penalised, not constrained.

References:
    Chizat et al. 2018, "Scaling algorithms for unbalanced optimal transport problems", arXiv:1607.05816.
"""

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.interaction import interaction
from flowport.cost.squared_euclidean import SquaredEuclideanCost
from flowport.coupling import drawing
from flowport.coupling.assignment import finite, pair_count
from flowport.coupling.base import Coupling, Plan
from flowport.coupling.entropic import IndependenceWarning, sharpness, solve, working_precision
from flowport.errors import Count, FlowportError, Positive
from flowport.types import Pair


class UnbalancedCoupling(Coupling):
    """Unbalanced entropic transport: P = argmin ⟨P, C⟩ + ε KL(P | abᵀ) + ρ KL(P1 | a) + ρ KL(Pᵀ1 | b).

    a = 1/n and b = 1/m are uniform. C is the reduced cost, which terms f(x0) + g(x1) do not change: for the squared
    Euclidean cost the squared distance of the centred points in coordinates where both covariances are equal
    (:meth:`flowport.cost.interaction.Interaction.reduced`). So no mass is lost to a shift between source and target.
    ε = epsilon · s and ρ = mass_penalty · s, with s the mean of C without the outliers. Mass whose transport costs more
    than about 2ρ is dropped, so outliers disappear and both marginals change by design. lcm(n, m) pairs are drawn
    from P by systematic resampling. The plan equals that of ``ot.unbalanced.sinkhorn_unbalanced`` for C; it is computed
    here in the log domain on the device of the points.

    Facts: cost, the mean cost of the drawn pairs; lost_mass = 1 − ΣP, negative where mass is created; plan_entropy, see
    :func:`flowport.coupling.entropic.sharpness`; iterations.

    Args:
        mass_penalty: ρ as a multiple of s, > 0.
        epsilon: ε as a multiple of s, > 0.
        iterations: Largest number of Sinkhorn iterations.
        tolerance: Largest last change of the potentials, see :func:`flowport.coupling.entropic.solve`.
        cost: Cost before the reduction; squared Euclidean where None.

    Raises:
        FlowportError: When ``mass_penalty`` or ``epsilon`` is not positive, or ``iterations`` do not suffice.
    """

    keeps_marginals = False

    def __init__(
        self,
        mass_penalty: float = 1.0,
        epsilon: float = 0.05,
        iterations: Count = 5000,
        tolerance: Positive = 1e-4,
        cost: Cost | None = None,
    ) -> None:
        if not (epsilon > 0 and mass_penalty > 0):
            raise FlowportError(
                f"coupling.mass_penalty={mass_penalty} and coupling.epsilon={epsilon} must be positive (shares of the "
                f"cost's scale)"
            )
        self.mass_penalty, self.epsilon = mass_penalty, epsilon
        self.iterations, self.tolerance = iterations, tolerance
        self.cost = SquaredEuclideanCost() if cost is None else cost
        self._warn = IndependenceWarning("coupling=unbalanced")

    def _solve(self, cost: Tensor) -> tuple[Tensor, int]:
        with torch.no_grad(), torch.autocast(cost.device.type, enabled=False):
            part = interaction(finite(cost))
            epsilon = self.epsilon * (float(part.scale) or 1.0)  # without an interaction all pairs cost nothing
            damping = self.mass_penalty / (self.mass_penalty + self.epsilon)
            kind = working_precision(cost, self.tolerance)
            found = solve(part.reduced().to(kind), epsilon, damping, self.iterations, self.tolerance)
        if not found.error < self.tolerance:
            raise FlowportError(
                f"unbalanced transport still moved by {found.error:.2g} after {found.iterations} iterations, more than "
                f"{self.tolerance:.2g}: raise coupling.epsilon or coupling.iterations"
            )
        return found.plan(), found.iterations

    def plan(self, pair: Pair) -> Tensor:
        """The transport plan of a batch, (n, m), whose mass is in general not 1.

        Args:
            pair: Source and target points, n and m rows.
        """
        return self._solve(self.cost(pair.source, pair.target))[0]

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        cost = self.cost(pair.source, pair.target)
        plan, iterations = self._solve(cost)
        i, j = drawing.pairs(plan, pair_count(*plan.shape), generator)
        self._warn(entropy := sharpness(plan))
        facts: dict[str, float | Tensor] = {
            "cost": cost[i, j].mean(),
            "lost_mass": 1 - float(plan.sum()),
            "plan_entropy": entropy,
            "iterations": float(iterations),
        }
        return Plan(i, j, facts)
