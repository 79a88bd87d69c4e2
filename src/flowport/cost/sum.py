"""Weighted sums of costs, each in units of its own scale."""

from collections.abc import Mapping

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.cost.interaction import interaction
from flowport.errors import FlowportError
from flowport.types import Sample


class SumCost(Cost):
    """Weighted sum of costs c = Σ_k w_k c_k / s_k, s_k the scale of the interaction of c_k over all pairs of the batch.

    Dimensionless. s_k is the mean cost without the shift and the outliers, see
    :func:`flowport.cost.interaction.interaction`: a shift between source and target in one cost leaves its share in the
    sum as it is. A cost without an interaction, such as a constant one, decides nothing and contributes zero.

    Args:
        costs: The costs c_k by name.
        weights: The weights w_k ≥ 0 by name.

    Raises:
        FlowportError: When there is no cost, the names differ, or a weight is negative.
    """

    def __init__(self, costs: Mapping[str, Cost], weights: Mapping[str, float]) -> None:
        if not costs or set(costs) != set(weights) or min(weights.values()) < 0:
            raise FlowportError(
                f"a sum of costs needs one weight ≥ 0 for each cost, but the costs are {', '.join(costs) or 'none'} "
                f"and the weights {dict(weights)}"
            )
        self.costs, self.weights = dict(costs), dict(weights)

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        with torch.no_grad(), torch.autocast(source.x.device.type, enabled=False):
            parts = {name: cost(source, target) for name, cost in self.costs.items()}
            scales = {name: interaction(c).scale.to(c) for name, c in parts.items()}
            scaled = [self.weights[n] * torch.where(scales[n] > 0, c / scales[n], 0.0) for n, c in parts.items()]
            return torch.stack(scaled).sum(0)
