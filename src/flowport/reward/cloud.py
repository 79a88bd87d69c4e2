"""Rewards of point clouds (B, d, N) that are invariant under permutations of the points."""

from abc import ABC
from typing import final

import torch
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.reward.base import Reward
from flowport.types import Condition

TINY = 1e-12


class CloudReward(Reward, ABC):
    """A reward of clouds (d, N), optionally along one axis.

    A member provides ``forward``. To add one, see ``Reward``.

    Args:
        axis: Number of a coordinate; None for a reward that is invariant under rotations.

    Raises:
        FlowportError: For a negative axis.
    """

    def __init__(self, axis: int | None = None) -> None:
        super().__init__()
        if axis is not None and axis < 0:
            raise FlowportError(f"reward.axis is {axis}; it must be null or the number of a coordinate, from 0")
        self.axis = axis

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that points of the target are clouds with this axis.

        Args:
            source: The source; not used.
            target: The target.

        Raises:
            FlowportError: When the target has other points, or clouds without this axis.
        """
        shape = tuple(target.event_shape)
        if len(shape) != 2:
            raise FlowportError(
                f"reward={self.called} is for clouds (d, N), but points of the target have the shape {shape}"
            )
        if self.axis is not None and self.axis >= shape[0]:
            raise FlowportError(f"reward.axis is {self.axis}, but the clouds have the coordinates 0 … {shape[0] - 1}")


@final
class Extent(CloudReward):
    """Root mean square distance of a cloud's points from their centroid, along an axis or in all, in the points' unit.

    Args:
        axis: Number of the coordinate; None for all of them.

    Raises:
        FlowportError: For a negative axis.
    """

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        squares = (x1 - x1.mean(2, keepdim=True)).square()
        along = squares.sum(1) if self.axis is None else squares[:, self.axis]
        return along.mean(1).clamp_min(TINY).sqrt()


@final
class CloudSymmetry(CloudReward):
    """Negative Chamfer distance of a centred cloud x to its mirror image y, r = −mean_i min_j |x_i − y_j|² ≤ 0.

    r = 0 iff both are the same set of points. Mirroring is an involution, so both directions of the Chamfer distance
    are equal and one is computed. N points drawn from a symmetric surface reach about minus the squared distance of
    neighbours. Memory (B, N, N).

    Args:
        axis: Number of the coordinate that is mirrored; None for the point reflection y = −x, which is invariant under
            rotations.
        relative: Whether r is divided by mean_i |x_i|², so that scaling a cloud does not change it; otherwise r is in
            squared units of the points.

    Raises:
        FlowportError: For a negative axis.
    """

    def __init__(self, axis: int | None = None, relative: bool = False) -> None:
        super().__init__(axis)
        self.relative = relative

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        x = x1 - x1.mean(2, keepdim=True)
        mirrored = -x
        if self.axis is not None:
            across = torch.arange(x.shape[1], device=x.device)[:, None] == self.axis
            mirrored = torch.where(across, -x, x)
        lengths = x.square().sum(1)  # equal to those of the mirror image
        squares = lengths[:, :, None] + lengths[:, None] - 2 * x.mT @ mirrored
        apart = squares.amin(2).clamp_min(0).mean(1)
        return -apart / lengths.mean(1).clamp_min(TINY) if self.relative else -apart
