"""Exact optimal transport inside each class."""

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import SquaredEuclideanCost
from flowport.coupling.assignment import permutation
from flowport.coupling.base import Coupling, Plan
from flowport.errors import FlowportError
from flowport.types import Pair, Sample


def within_classes(cost: Cost, pair: Pair, own: Tensor, wanted: Tensor) -> Plan:
    """argmin of Σ_k c(x0[i_k], x1[j_k]) over permutations with own[i_k] = wanted[j_k], one exact solve per class.

    own, wanted: (n,) classes of the sources and of the targets, with equal counts. Row k of the result is source k.
    The cost is asked class by class, so memory grows with the largest class and not with the batch.
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
    """(n,) class labels, or a FlowportError that names the side."""
    label = sample.label
    if label is None or label.ndim != 1 or label.is_floating_point():
        found = "has no labels" if label is None else f"has {label.dtype} labels of shape {tuple(label.shape)}"
        raise FlowportError(
            f"coupling=class_conditional needs one whole-numbered class for each point of both sides, but the {side} "
            f"{found}: use coupling=exact, or coupling=condition_aware where the target alone is labelled"
        )
    return label


class ClassConditionalCoupling(Coupling):
    """π(x0, x1) = Σ_y p(y) π_y(x0, x1 | y) with π_y exact optimal transport from p0(· | y) to p1(· | y).

    Both sides are labelled, and each batch holds every class equally often on both sides (pairing=class_matched): the
    translation then keeps the class, and both conditional marginals stay as they are. cost: squared Euclidean where
    None. facts: cost. Raises FlowportError for missing labels or unequal class counts.
    """

    needs_matched_classes = True

    def __init__(self, cost: Cost | None = None) -> None:
        self.cost = SquaredEuclideanCost() if cost is None else cost

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        own, wanted = classes(pair.source, "source"), classes(pair.target, "target")
        if len(own) != len(wanted) or not torch.equal(own.sort().values, wanted.sort().values):
            raise FlowportError(
                "coupling=class_conditional needs equally many points of each class on both sides of a batch, but the "
                "counts differ: write pairing=class_matched"
            )
        return within_classes(self.cost, pair, own, wanted)
