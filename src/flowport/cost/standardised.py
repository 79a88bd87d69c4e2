"""Squared distance after each coordinate was put on the scale of its own spread."""

from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import squared_distances
from flowport.types import Sample


class StandardisedCost(Cost):
    """c(x0, x1) = Σ_k (x0_k − x1_k)² / var_k, var_k the variance of coordinate k over the target's batch. No unit.

    For points whose coordinates have different units, as a label of several measured values. A coordinate that is
    constant in the target is not scaled.
    """

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        a, b = source.x.flatten(1).double(), target.x.flatten(1).double()
        spread = b.std(0, correction=0)
        spread = spread.where(spread > 0, 1.0)
        return squared_distances(a / spread, b / spread)
