"""The cosine distance, for embeddings whose direction carries the meaning.

References:
    Cheng and Schwing 2025, "The Curse of Conditions: Analyzing and Improving Optimal Transport for Conditional
        Flow-Based Generation" (as the distance between conditions), arXiv:2503.10636.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.cost.base import Cost
from flowport.types import Sample


class CosineCost(Cost):
    """Cosine distance c(x0, x1) = 1 − ⟨x0, x1⟩ / (|x0| |x1|), in [0, 2].

    Dimensionless. In one dimension it compares signs only.
    """

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        with torch.no_grad(), torch.autocast(source.x.device.type, enabled=False):
            a, b = (F.normalize(side.x.flatten(1).double(), dim=1) for side in (source, target))
            return 1 - a @ b.T
