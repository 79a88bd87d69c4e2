"""One minus the cosine: for embeddings, whose direction carries the meaning."""

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.cost.base import Cost
from flowport.types import Sample


class CosineCost(Cost):
    """c(x0, x1) = 1 − ⟨x0, x1⟩ / (|x0| |x1|), in [0, 2]. In one dimension it only compares signs. No unit."""

    def __call__(self, source: Sample, target: Sample) -> Tensor:
        with torch.no_grad(), torch.autocast(source.x.device.type, enabled=False):
            a, b = (F.normalize(side.x.flatten(1).double(), dim=1) for side in (source, target))
            return 1 - a @ b.T
