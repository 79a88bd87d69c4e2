"""What a pair costs: c(x0, x1) for all pairs of a batch at once."""

from abc import ABC, abstractmethod

from torch import Tensor

from flowport.shapes import Sample


class Cost(ABC):
    @abstractmethod
    def __call__(self, source: Sample, target: Sample) -> Tensor:
        """(n, m) float32 or float64 costs, on the device of the samples, computed outside autocast."""
