"""Rewards of clouds (B, d, N), whatever the order of their points."""

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
    """axis: the number of a coordinate, or None for what does not depend on the pose."""

    def __init__(self, axis: int | None = None) -> None:
        super().__init__()
        if axis is not None and axis < 0:
            raise FlowportError(f"reward.axis is {axis}; it must be null or the number of a coordinate, from 0")
        self.axis = axis

    def check(self, source: Distribution, target: Distribution) -> None:
        shape = tuple(target.event_shape)
        if len(shape) != 2:
            raise FlowportError(
                f"reward={self.called} is for clouds (d, N), but points of the target have the shape {shape}"
            )
        if self.axis is not None and self.axis >= shape[0]:
            raise FlowportError(f"reward.axis is {self.axis}, but the clouds have the coordinates 0 … {shape[0] - 1}")


@final
class Extent(CloudReward):
    """r = the root mean square distance of a cloud's points from their centroid, along ``axis`` where one is given.
    Units of the points."""

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        squares = (x1 - x1.mean(2, keepdim=True)).square()
        along = squares.sum(1) if self.axis is None else squares[:, self.axis]
        return along.mean(1).clamp_min(TINY).sqrt()


@final
class CloudSymmetry(CloudReward):
    """r = −mean_i min_j |x_i − y_j|², the Chamfer distance between the cloud, centred, and its mirror image y; 0 iff
    they are the same points. Squared units of the points.

    The mirror is the centroid itself, y = −x, whatever the pose; with ``axis`` the plane across it. Mirroring twice
    changes nothing, so both directions of the Chamfer distance are equal and one is enough. Points drawn from a
    symmetric surface reach about the squared distance between neighbours. Holds (B, N, N) numbers.
    relative: over the mean of |x_i|², so that nothing is won by a smaller cloud; then without a unit.
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
        lengths = x.square().sum(1)  # mirroring keeps them
        squares = lengths[:, :, None] + lengths[:, None] - 2 * x.mT @ mirrored
        apart = squares.amin(2).clamp_min(0).mean(1)
        return -apart / lengths.mean(1).clamp_min(TINY) if self.relative else -apart
