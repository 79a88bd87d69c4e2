"""c(x0, x1) = |φ(x0) − φ(x1)|² for a frozen φ: points are close if they look alike, not if their pixels agree."""

import torch
from torch import Tensor, nn

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import squared_distances
from flowport.types import Sample


def describe(descriptor: nn.Module, x: Tensor, chunk: int) -> Tensor:
    """(n, F) float features of x (n, *D): evaluation mode, no gradient, no autocast, ``chunk`` points at a time.

    The descriptor's own training flags are left as they were found.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        flags = [(module, module.training) for module in descriptor.modules()]
        descriptor.to(x.device).eval()
        try:
            return torch.cat([descriptor(part.float()).flatten(1) for part in x.split(chunk)])
        finally:
            for module, training in flags:
                module.training = training


class FeaturesCost(Cost):
    """c(x0, x1) = |φ(x0) − φ(x1)|² with a frozen network φ: (n, *D) → (n, F).

    network: any nn.Module, trained or fixed (for instance :class:`flowport.cost.HOGFeatures`). It is used in
    evaluation mode
    without gradients. chunk: points per forward pass.
    """

    def __init__(self, network: nn.Module, chunk: int = 1024) -> None:
        self.network, self.chunk = network.requires_grad_(False), chunk

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        return squared_distances(
            describe(self.network, source.x, self.chunk), describe(self.network, target.x, self.chunk)
        )
