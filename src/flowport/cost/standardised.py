"""The standardised Euclidean distance: each coordinate in units of its standard deviation."""

from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import squared_distances
from flowport.types import Sample


class StandardisedCost(Cost):
    """Standardised squared Euclidean distance c(x0, x1) = Σ_k (x0_k − x1_k)² / var_k.

    var_k is the variance of coordinate k over the target batch; a coordinate that is constant there is not scaled.
    Dimensionless. For points whose coordinates have different units, such as a label of several measured values.
    """

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        a, b = source.x.flatten(1).double(), target.x.flatten(1).double()
        spread = b.std(0, correction=0)
        spread = spread.where(spread > 0, 1.0)
        return squared_distances(a / spread, b / spread)
