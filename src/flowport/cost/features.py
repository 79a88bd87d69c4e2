"""Squared distances between features of a frozen network.

References:
    Johnson, Alahi and Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution",
        arXiv:1603.08155.
"""

import torch
from torch import Tensor, nn

from flowport.cost.base import Cost
from flowport.cost.squared_euclidean import squared_distances
from flowport.errors import Count
from flowport.types import Sample


def features_of(descriptor: nn.Module, x: Tensor, chunk: int) -> Tensor:
    """The features of points, computed in evaluation mode without gradient and autocast.

    The training flags of the network are restored afterwards.

    Args:
        descriptor: Network (n, *D) → (n, *F); it is moved to the device of the points.
        x: Points, (n, *D).
        chunk: Points per forward pass.

    Returns:
        Flattened features, (n, F).
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
    """Squared distance of features, c(x0, x1) = |φ(x0) − φ(x1)|², with a frozen network φ.

    It compares images by their appearance rather than pixel by pixel.

    Args:
        network: φ: (n, *D) → (n, *F), any nn.Module, trained or fixed (for instance
            :class:`flowport.cost.HOGFeatures`); its gradients are switched off.
        chunk: Points per forward pass.
    """

    def __init__(self, network: nn.Module, chunk: Count = 1024) -> None:
        self.network, self.chunk = network.requires_grad_(False), chunk

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        return squared_distances(
            features_of(self.network, source.x, self.chunk), features_of(self.network, target.x, self.chunk)
        )
