"""c = Σ w_k c_k / mean(c_k): several notions of closeness at once, on one scale."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowport.cost.base import Cost
from flowport.errors import Refusal
from flowport.shapes import Sample


class Sum(Cost):
    """c = Σ_k w_k c_k / mean(c_k), the mean over all pairs of the batch; without unit.

    costs: the members; weights: one number ≥ 0 for each. Raises Refusal where the two lists differ in length or a
    weight is negative.
    """

    def __init__(self, costs: Sequence[Cost], weights: Sequence[float]) -> None:
        if len(costs) != len(weights) or not costs or min(weights) < 0:
            raise Refusal(
                f"a sum of costs needs one weight ≥ 0 for each cost, but {len(costs)} costs and the weights "
                f"{list(weights)} were given"
            )
        self.costs, self.weights = list(costs), list(weights)

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        with torch.no_grad(), torch.autocast(source.x.device.type, enabled=False):
            parts = [cost(source, target) for cost in self.costs]
            # a cost that is zero everywhere prefers no pair, and stays zero
            scaled = [w * c / c.mean().clamp(min=1e-30) for w, c in zip(self.weights, parts, strict=True)]
            return torch.stack(scaled).sum(0)
