"""A flow's own results as the target of its fine-tuning, where the data are not known."""

import torch
from torch import Tensor

from flowport.distribution.base import AnalyticDistribution
from flowport.modality import Modality
from flowport.types import Sample


class OwnResults(AnalyticDistribution):
    """Draws with replacement from points that a flow has made; nothing is known of their law.

    Args:
        x: Encoded points, (n, *D).
        modality: Of the flow.
    """

    def __init__(self, x: Tensor, modality: Modality) -> None:
        self.x, self.modality, self.event_shape = x, modality, tuple(x.shape[1:])

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        index = torch.randint(len(self.x), (n,), generator=generator, device=generator.device)
        return Sample(self.x[index.to(self.x.device)])

    def observed(self) -> "OwnResults":
        surface = self.modality.surface()
        return self if surface is self.modality else OwnResults(self.modality.observed(self.x), surface)
