"""c = Σ w_k c_k / mean(c_k): several notions of closeness at once, on one scale."""

from collections.abc import Mapping

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.errors import FlowportError
from flowport.types import Sample


class SumCost(Cost):
    """c = Σ_k w_k c_k / mean(c_k), the mean over all pairs of the batch; without unit.

    costs: the members by name; weights: a number ≥ 0 for each name. Raises FlowportError where the names differ or a
    weight
    is negative.
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
            # a cost that is zero everywhere prefers no pair, and stays zero
            scaled = [self.weights[name] * c / c.mean().clamp(min=1e-30) for name, c in parts.items()]
            return torch.stack(scaled).sum(0)
