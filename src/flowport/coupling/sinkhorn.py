"""Entropic optimal transport between the two point sets of a batch: the static Schrödinger bridge.

References:
    Cuturi 2013, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", arXiv:1306.0895.
    Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
        arXiv:2302.00482.
    Zhang et al. 2025, "On Fitting Flow Models with Large Sinkhorn Couplings", arXiv:2506.05526.
"""

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.interaction import interaction
from flowport.cost.squared_euclidean import SquaredEuclideanCost
from flowport.coupling import drawing
from flowport.coupling.assignment import finite, pair_count
from flowport.coupling.base import Coupling, Plan
from flowport.coupling.entropic import IndependenceWarning, Potentials, sharpness, solve, working_precision
from flowport.errors import Count, FlowportError, NonNegative
from flowport.types import Pair


class SinkhornCoupling(Coupling):
    """Entropic optimal transport: P = argmin ⟨P, C⟩ + ε KL(P | 1/n ⊗ 1/m) with P 1 = 1/n, Pᵀ 1 = 1/m.

    One column is drawn for each row, j ~ P_i· / ΣP_i·. Rows are used equally often; columns in expectation, up to
    ``tolerance``. n and m points become lcm(n, m) pairs. The Schrödinger bridge of a Brownian motion with volatility σ
    has ε = 2σ² for the cost |x0 − x1|².

    ε = epsilon · s, with s the scale of the cost's interaction (:func:`flowport.cost.interaction.interaction`): for the
    squared Euclidean cost the mean cost without the shift and the outliers, 2 tr Σ for equal covariances Σ. Terms
    f(x0) + g(x1) of the cost change neither s nor P.

    Facts: cost, the mean cost of the drawn pairs; plan_entropy, (H − log n)/log n, 0 for a permutation and 1 for
    independence; marginal_error, the larger of Σ_i |row sum − 1/n| and Σ_j |column sum − 1/m|; iterations.

    Args:
        epsilon: ε as a multiple of s, > 0.
        iterations: Largest number of Sinkhorn iterations.
        tolerance: Largest marginal error.
        cost: Cost C; squared Euclidean where None.

    Raises:
        FlowportError: When ``epsilon`` is not positive, or the marginals are not met within ``iterations``.
    """

    def __init__(
        self, epsilon: float = 0.05, iterations: Count = 2000, tolerance: NonNegative = 1e-3, cost: Cost | None = None
    ) -> None:
        if not epsilon > 0:
            raise FlowportError(f"coupling.epsilon={epsilon} must be positive (a share of the cost's scale), as 0.05")
        self.epsilon, self.iterations, self.tolerance = epsilon, iterations, tolerance
        self.cost = SquaredEuclideanCost() if cost is None else cost
        self._warn = IndependenceWarning("coupling=sinkhorn")

    def _solve(self, cost: Tensor) -> Potentials:
        with torch.no_grad(), torch.autocast(cost.device.type, enabled=False):
            found = interaction(finite(cost))
            epsilon = self.epsilon * (float(found.scale) or 1.0)  # without an interaction every plan is optimal
            kind = working_precision(cost, self.tolerance)
            return solve(found.centred.to(kind), epsilon, 1.0, self.iterations, self.tolerance)

    def plan(self, pair: Pair) -> Tensor:
        """The transport plan of a batch, (n, m), with the marginals 1/n and 1/m.

        Args:
            pair: Source and target points, n and m rows.
        """
        return self._solve(self.cost(pair.source, pair.target)).plan()

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        cost = self.cost(pair.source, pair.target)
        potentials = self._solve(cost)
        plan = potentials.plan()
        n, m = plan.shape
        rows, sums = plan.sum(1), plan.sum(0)
        error = float(torch.maximum((rows - 1 / n).abs().sum(), (sums - 1 / m).abs().sum()))
        if not error <= max(self.tolerance, 1e-9) * 1.01:
            raise FlowportError(
                f"Sinkhorn left a marginal error of {error:.2g} after {potentials.iterations} iterations, more than "
                f"{self.tolerance:.2g}: raise coupling.epsilon or coupling.iterations"
            )
        repeats = pair_count(n, m) // n
        logits = potentials.logits()
        j = torch.cat([drawing.columns(logits, generator) for _ in range(repeats)])
        i = torch.arange(n, device=j.device).repeat(repeats)
        self._warn(entropy := sharpness(plan))
        facts: dict[str, float | Tensor] = {
            "cost": cost[i, j].mean(),
            "plan_entropy": entropy,
            "marginal_error": error,
            "iterations": float(potentials.iterations),
        }
        return Plan(i, j, facts)
