"""Be near this point."""

from typing import final

import numpy as np
import torch
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.distribution.parameter import Numbers, numbers
from flowport.errors import FlowportError
from flowport.reward.base import Reward
from flowport.types import Condition


@final
class DistanceReward(Reward):
    """r = −|x − reference|². Squared units of the points.

    reference: one encoded point of the target's shape, as (nested) list or as an .npy file; kept in float64. Raises
    FlowportError for a file that is no array of finite numbers and for points of another shape.
    """

    reference: Tensor

    def __init__(self, reference: Numbers | str) -> None:
        super().__init__()
        value = read(reference) if isinstance(reference, str) else reference
        self.register_buffer("reference", numbers("reward.reference", value, torch.float64), persistent=False)

    def check(self, source: Distribution, target: Distribution) -> None:
        if tuple(self.reference.shape) != tuple(target.event_shape):
            raise FlowportError(
                f"reward.reference has the shape {tuple(self.reference.shape)}, but points of the target have "
                f"{target.event_shape}"
            )

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return -(x1 - self.reference.to(x1.dtype)).flatten(1).square().sum(1)


def read(path: str) -> Tensor:
    """An .npy file of numbers as a tensor; files that hold Python objects are refused, for these can run code."""
    try:
        return torch.from_numpy(np.asarray(np.load(path, allow_pickle=False), dtype=np.float64))
    except (OSError, ValueError, TypeError, EOFError):
        raise FlowportError(f"reward.reference={path} is not an .npy file of numbers") from None
