"""Optimal transport for flows conditioned on the target's label (C2OT).

References:
    Cheng and Schwing 2025, "The Curse of Conditions: Analyzing and Improving Optimal Transport for Conditional
        Flow-Based Generation", arXiv:2503.10636.
"""

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
    """The largest weight w ≥ 0 of the label distance with Pr_ij[M_ij + w C_ij ≤ M_ii] ≥ ratio.

    Cheng and Schwing search w by doubling and halving. Pair (i, j) leaves the event at w_ij = (M_ii − M_ij)/C_ij, so w
    is an order statistic of these values, exact to 1/n² in the ratio.

    Args:
        ratio: Share of pairs in the event, in (0, 1].
        cost: Cost M between points, (n, n).
        distance: Distance C between labels, (n, n), with C_ii = 0.

    Returns:
        w; 0 where M alone is already more selective than ``ratio``.
    """
    gain = cost.diagonal().unsqueeze(1) - cost
    # 0/0 for equal labels: such a pair is in the event for every w, or for none
    leaves = torch.where(distance > 0, gain / distance.clamp(min=1e-300), torch.copysign(torch.inf + gain * 0, gain))
    leaves = torch.where((distance <= 0) & (gain >= 0), torch.inf, leaves).flatten()
    rank = max(1, round(ratio * len(leaves)))
    threshold = leaves.kthvalue(len(leaves) + 1 - rank).values
    if torch.isinf(threshold) and threshold > 0:
        # equal labels are so frequent that no weight is selective enough: take twice the largest finite one
        finite_ones = leaves[torch.isfinite(leaves)]
        threshold = 2 * finite_ones.max() if len(finite_ones) else torch.zeros(())
    return max(float(threshold), 0.0)


class ConditionAwareCoupling(Coupling):
    """C2OT: π = argmin over permutations τ of Σ_i c(x0_i, x1_τ(i)) + w d(y_i, y_τ(i)).

    Only the target is labelled. y_i is the label of the partner of source i before re-pairing, hence independent of
    x0_i. Plain optimal transport makes x0 depend on y, and a conditional flow that starts from p0 then misses its
    target. Here p(x0 | y) = p0: exactly for classes (w = ∞, that is optimal transport inside each class), approximately
    for continuous labels. The pairs carry the label of their target.

    Facts: cost, the mean cost of a pair; weight, the w of continuous labels.

    Args:
        ratio: For continuous labels (n, k): w is chosen so that Pr[M_ij + w d_ij ≤ M_ii] = ratio with M the cost, the
            share of re-pairings that may change the label; 0.2 in the paper.
        weight: A fixed w ≥ 0 in units of cost per distance, in place of ``ratio``.
        distance: Cost d between labels; StandardisedCost where None. The paper's CosineCost suits embeddings, but
            compares only the signs of one-dimensional labels.
        cost: Cost c between points; squared Euclidean where None.

    Raises:
        FlowportError: When ``ratio`` is not in (0, 1], ``weight`` is negative, the target has no labels, or the two
            sides of a batch differ in size.
    """

    label_aware = True

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
