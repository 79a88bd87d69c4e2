"""Exact optimal transport inside each class.

References:
    Cheng and Schwing 2025, "The Curse of Conditions: Analyzing and Improving Optimal Transport for Conditional
        Flow-Based Generation", arXiv:2503.10636.
"""

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import SquaredEuclideanCost
from flowport.coupling.assignment import permutation
from flowport.coupling.base import Coupling, Plan
from flowport.errors import FlowportError
from flowport.types import Pair, Sample


def within_classes(cost: Cost, pair: Pair, own: Tensor, wanted: Tensor) -> Plan:
    """Optimal transport inside each class: one exact assignment per class.

    Minimises Σ_k c(x0[k], x1[j_k]) over permutations j with own[k] = wanted[j_k]. The cost is computed class by class,
    so memory grows with the largest class, not with the batch.

    Args:
        cost: Cost c between points.
        pair: Source and target points, n rows each.
        own: Classes of the sources, (n,) integers.
        wanted: Classes of the targets, (n,) integers, with the same class counts as ``own``.

    Returns:
        The plan, whose row k is source k; facts: cost, the mean cost of a pair.
    """
    j = torch.empty_like(own, dtype=torch.long)
    total = 0.0
    for c in own.unique():
        rows, columns = (own == c).nonzero().squeeze(1), (wanted == c).nonzero().squeeze(1)
        block = cost(pair.source[rows], pair.target[columns])
        order = permutation(block)
        j[rows] = columns[order]
        total += block.gather(1, order.unsqueeze(1)).sum().item()
    return Plan(torch.arange(len(j), device=j.device), j, {"cost": total / max(len(j), 1)})


def classes(sample: Sample, side: str) -> Tensor:
    """The class labels of one side of a pair, (n,) integers.

    Args:
        sample: The points of this side.
        side: Its name in the error message, "source" or "target".

    Raises:
        FlowportError: When the points have no labels, or labels that are not one integer each.
    """
    label = sample.label
    if label is None or label.ndim != 1 or label.is_floating_point():
        found = "has no labels" if label is None else f"has {label.dtype} labels of shape {tuple(label.shape)}"
        raise FlowportError(
            f"coupling=class_conditional needs one whole-numbered class for each point of both sides, but the {side} "
            f"{found}: use coupling=exact, or coupling=condition_aware where the target alone is labelled"
        )
    return label


class ClassConditionalCoupling(Coupling):
    """Optimal transport inside each class: π(x0, x1) = Σ_y p(y) π_y(x0, x1 | y).

    π_y is exact optimal transport from p0(· | y) to p1(· | y) inside the batch. Both sides are labelled, and each batch
    holds every class equally often on both sides (pairing=class_matched). The translation then preserves the class, and
    both conditional marginals stay as they are.

    Facts: cost, the mean cost of a pair.

    Args:
        cost: Cost c; squared Euclidean where None.

    Raises:
        FlowportError: When labels are missing or the class counts of the two sides differ.
    """

    needs_matched_classes = True
    label_aware = True

    def __init__(self, cost: Cost | None = None) -> None:
        self.cost = SquaredEuclideanCost() if cost is None else cost

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        y0, y1 = classes(pair.source, "source"), classes(pair.target, "target")
        if len(y0) != len(y1) or not torch.equal(y0.sort().values, y1.sort().values):
            raise FlowportError(
                "coupling=class_conditional needs equally many points of each class on both sides of a batch, but the "
                "counts differ: write pairing=class_matched"
            )
        return within_classes(self.cost, pair, y0, y1)
