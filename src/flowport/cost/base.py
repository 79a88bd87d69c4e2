"""Costs c(x0, x1) between source and target points, evaluated for all pairs of a batch."""

from abc import ABC, abstractmethod

from torch import Tensor

from flowport.errors import Checked, FlowportError
from flowport.types import Sample


class Cost(Checked, ABC):
    """A cost c(x0, x1) ≥ 0 between points, which optimal transport couplings minimise.

    A member provides ``__call__``. It computes outside autocast and without gradients, and does not change the samples.

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py``, add
    ``configs/cost/<name>.yaml`` with ``_target_`` and list it in ``COSTS`` of tests/zoo.py.
    """

    @abstractmethod
    def __call__(self, source: Sample, target: Sample) -> Tensor:
        """The cost matrix C_ij = c(x0_i, x1_j).

        Args:
            source: Source points, n rows.
            target: Target points, m rows.

        Returns:
            Costs, (n, m) float32 or float64, on the device of the samples.
        """


def require_clouds(name: str, x: Tensor, y: Tensor) -> None:
    """Check that both sides hold point clouds of one dimension d.

    Args:
        name: Name of the cost in the error message.
        x: Source clouds, (n, d, N).
        y: Target clouds, (m, d, M).

    Raises:
        FlowportError: When one of them is not of this shape.
    """
    if x.ndim != 3 or y.ndim != 3 or x.shape[1] != y.shape[1]:
        raise FlowportError(
            f"cost={name} compares clouds (n, d, N) in one space, not points {tuple(x.shape[1:])} and "
            f"{tuple(y.shape[1:])}: use cost=squared_euclidean"
        )
