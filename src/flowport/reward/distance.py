"""Reward by the distance to a given point."""

from pathlib import Path
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
    """Negative squared distance to a reference point, r = −|x − reference|², in squared units of the points.

    Args:
        reference: An encoded point of the target's shape, as a nested list or the path of an .npy file; float64.

    Raises:
        FlowportError: For a file that is not an array of finite numbers.
    """

    reference: Tensor

    def __init__(self, reference: Numbers | str) -> None:
        super().__init__()
        value = read(reference) if isinstance(reference, str) else reference
        self.register_buffer("reference", numbers("reward.reference", value, torch.float64), persistent=False)

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check the shape of the reference.

        Args:
            source: The source; not used.
            target: The target.

        Raises:
            FlowportError: When the reference has another shape than points of the target.
        """
        if tuple(self.reference.shape) != tuple(target.event_shape):
            raise FlowportError(
                f"reward.reference has the shape {tuple(self.reference.shape)}, but points of the target have "
                f"{target.event_shape}"
            )

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return -(x1 - self.reference.to(x1.dtype)).flatten(1).square().sum(1)


def read(path: str) -> Tensor:
    """The numbers of an .npy file, float64; files with Python objects are refused, because these can run code.

    Args:
        path: The file.

    Raises:
        FlowportError: When it is not an .npy file of numbers.
    """
    if not Path(path).is_file():
        raise FlowportError(f"reward.reference={path} is not an .npy file of numbers")
    try:
        return torch.from_numpy(np.asarray(np.load(path, allow_pickle=False), dtype=np.float64))
    except (OSError, ValueError, TypeError, EOFError):
        raise FlowportError(f"reward.reference={path} is not an .npy file of numbers") from None
