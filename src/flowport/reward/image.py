"""Rewards of images (B, C, H, W), in units of the points: −1 is dark and 1 is bright."""

from abc import ABC
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.distribution.parameter import numbers
from flowport.errors import FlowportError
from flowport.modality import FloatImage, Image
from flowport.reward.base import Reward
from flowport.types import Condition


class ImageReward(Reward, ABC):
    """A reward of images (C, H, W).

    A member provides ``forward``. To add one, see ``Reward``.

    Attributes:
        channels: Number of channels that an image must have; None for any number.
    """

    channels: int | None = None

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that points of the target are images with the required channels.

        Args:
            source: The source; not used.
            target: The target.

        Raises:
            FlowportError: When the target has other points.
        """
        shape, modality = tuple(target.event_shape), target.modality
        if not isinstance(modality, (Image, FloatImage)) or len(shape) != 3:
            raise FlowportError(
                f"reward={self.called} is for images, but the target is {type(modality).__name__} with points {shape}"
            )
        if self.channels not in (None, shape[0]):
            raise FlowportError(
                f"reward={self.called} is for images of {self.channels} channels, but the target has {shape[0]}"
            )


@final
class Brightness(ImageReward):
    """Mean of an image over channels and pixels."""

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return x1.flatten(1).mean(1)


@final
class Colour(ImageReward):
    """Closeness of the mean colour of an image to a given one, r = −|mean over pixels − rgb|² ≤ 0.

    Args:
        rgb: The colour, three numbers in [−1, 1].

    Raises:
        FlowportError: For anything else.
    """

    channels = 3
    rgb: Tensor

    def __init__(self, rgb: Sequence[float]) -> None:
        super().__init__()
        colour = numbers("reward.rgb", rgb, torch.float64)
        if colour.shape != (3,) or bool((colour.abs() > 1).any()):
            raise FlowportError(f"reward.rgb is {rgb}; it must be three numbers from −1 to 1")
        self.register_buffer("rgb", colour, persistent=False)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return -(x1.mean((2, 3)) - self.rgb.to(x1.dtype)).square().sum(1)


@final
class Symmetry(ImageReward):
    """Negative mean squared difference between an image and its left-right mirror image; 0 iff they are equal."""

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return -(x1 - x1.flip(3)).square().flatten(1).mean(1)


@final
class Smoothness(ImageReward):
    """Negative squared differences of neighbouring pixels, 0 iff every channel is constant.

    r = −(Σ (x_{i+1,j} − x_{i,j})² + Σ (x_{i,j+1} − x_{i,j})²)/(C H W), sums over channels and pixels.
    """

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        down, right = (x1.diff(dim=dim).square().flatten(1).sum(1) for dim in (2, 3))
        return -(down + right) / x1.shape[1:].numel()
