"""What a pair costs: c(x0, x1) for all pairs of a batch at once."""

from abc import ABC, abstractmethod

from torch import Tensor

from flowport.errors import FlowportError
from flowport.types import Sample


class Cost(ABC):
    @abstractmethod
    def __call__(self, source: Sample, target: Sample) -> Tensor:
        """(n, m) float32 or float64 costs, on the device of the samples, computed outside autocast."""


def refuse_no_clouds(name: str, x: Tensor, y: Tensor) -> None:
    """Raises FlowportError unless both are clouds (n, d, N) in one space."""
    if x.ndim != 3 or y.ndim != 3 or x.shape[1] != y.shape[1]:
        raise FlowportError(
            f"cost={name} compares clouds (n, d, N) in one space, not points {tuple(x.shape[1:])} and "
            f"{tuple(y.shape[1:])}: use cost=squared_euclidean"
        )
