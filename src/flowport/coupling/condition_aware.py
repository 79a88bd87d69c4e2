"""Optimal transport for a flow that is told the target's label, without spoiling the source's law given that label."""

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import SquaredEuclideanCost
from flowport.cost.standardised import StandardisedCost
from flowport.coupling.assignment import finite, permutation
from flowport.coupling.base import Coupling, Plan
from flowport.coupling.class_conditional import within_classes
from flowport.errors import FlowportError
from flowport.types import Pair, Sample


def weight_for(ratio: float, cost: Tensor, distance: Tensor) -> float:
    """The largest w ≥ 0 with Pr_ij[M_ij + w C_ij ≤ M_ii] ≥ ratio, to 1/n². cost M, distance C: (n, n), C_ii = 0.

    Cheng and Schwing search w by doubling and halving. Pair (i, j) leaves the event at w_ij = (M_ii − M_ij) / C_ij, so
    w is an order statistic of these. 0 where already M alone is more selective than ratio asks.
    """
    gain = cost.diagonal().unsqueeze(1) - cost
    # 0/0 on equal labels: such a pair never leaves the event, or was never in it
    leaves = torch.where(distance > 0, gain / distance.clamp(min=1e-300), torch.copysign(torch.inf + gain * 0, gain))
    leaves = torch.where((distance <= 0) & (gain >= 0), torch.inf, leaves).flatten()
    rank = max(1, round(ratio * len(leaves)))
    threshold = leaves.kthvalue(len(leaves) + 1 - rank).values
    if torch.isinf(threshold) and threshold > 0:
        # labels repeat so often that no weight is selective enough: the strictest useful one
        finite_ones = leaves[torch.isfinite(leaves)]
        threshold = 2 * finite_ones.max() if len(finite_ones) else torch.zeros(())
    return max(float(threshold), 0.0)


class ConditionAwareCoupling(Coupling):
    """π = argmin over permutations of Σ_i |x0_i − x1_τ(i)|² + w d(y_i, y_τ(i)) (C2OT; Cheng and Schwing, ICCV 2025).

    Only the target is labelled. y_i is the label of source i's own batch partner *before* re-pairing, hence
    independent of x0_i. Plain OT lets x0 depend on y, and a conditional flow started from p0 then misses its target;
    here p(x0 | y) = p0: exactly for classes (w = ∞: OT inside each class), approximately for continuous labels. New
    pairs carry the target's label, which travels with j.

    ratio: for continuous labels (n, k), w is chosen so that Pr[M_ij + w d_ij ≤ M_ii] = ratio, the share of
    re-pairings that would still be worth their change of label (.2 in the paper). weight: a fixed w instead, in units
    of cost per distance. distance: a cost between labels, Standardised where None; the paper's Cosine suits
    embeddings, but of one-dimensional labels it only compares signs. cost: squared Euclidean where None.
    facts: cost, weight. Raises FlowportError for a target without labels, unequal sides and a ratio outside (0, 1].
    """

    def __init__(
        self, ratio: float = 0.2, weight: float | None = None, distance: Cost | None = None, cost: Cost | None = None
    ) -> None:
        if not 0 < ratio <= 1:
            raise FlowportError(
                f"coupling.ratio={ratio} is not in (0, 1]: it is the share of pairs that may change partners"
            )
        if weight is not None and weight < 0:
            raise FlowportError(
                f"coupling.weight={weight} is negative: it must be at least 0, or null to follow the ratio"
            )
        self.ratio, self.weight = ratio, weight
        self.cost = SquaredEuclideanCost() if cost is None else cost
        self.distance = StandardisedCost() if distance is None else distance

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        label = pair.target.label
        if label is None:
            raise FlowportError(
                "coupling=condition_aware needs a labelled target, but it has no labels: use coupling=exact"
            )
        if len(pair.source) != len(pair.target):
            raise FlowportError(
                f"coupling=condition_aware needs a partner for each point, but the batch has {len(pair.source)} source "
                f"and {len(pair.target)} target points: couple batches of one size, for instance data.pool=8"
            )
        if label.ndim == 1 and not label.is_floating_point():
            return within_classes(self.cost, pair, label, label)
        values = Sample(label.double().reshape(len(label), -1))
        cost = finite(self.cost(pair.source, pair.target))
        distance = finite(self.distance(values, values)).to(cost.dtype).fill_diagonal_(0)
        weight = weight_for(self.ratio, cost, distance) if self.weight is None else self.weight
        j = permutation(cost + weight * distance)
        i = torch.arange(len(j), device=j.device)
        return Plan(i, j, {"cost": cost[i, j].mean().item(), "weight": weight})
