"""A reward without a gradient: how small a file an image makes."""

from io import BytesIO
from typing import final

import torch
from PIL import Image as Picture
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.errors import Refusal
from flowport.modality import Image
from flowport.reward.base import Reward
from flowport.shapes import Condition


@final
class Compressibility(Reward):
    """r = −bits of the image as a PNG file / its number of values: simple images are worth more (Black et al. 2024,
    with PNG for JPEG, for nothing is lost). Computed by the host, an image at a time.

    modality: turns points into bytes; null: that of the target. Raises Refusal for anything but images of 1 or 3
    channels.
    """

    differentiable = False

    def __init__(self, modality: Image | None = None) -> None:
        super().__init__()
        self.modality = modality

    def check(self, source: Distribution, target: Distribution) -> None:
        if not isinstance(target.modality, Image) or target.event_shape[0] not in (1, 3):
            raise Refusal(
                f"reward={self.called} is for images of bytes with 1 or 3 channels, but the target is "
                f"{type(target.modality).__name__} with points {tuple(target.event_shape)}"
            )
        self.modality = self.modality or target.modality

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        if self.modality is None:
            raise Refusal(f"reward={self.called} does not know its modality: give reward.modality, or ask check first")
        images = self.modality.decode(x1).cpu()
        bits = [8 * size_of_png(image) for image in images]
        return -torch.tensor(bits, device=x1.device) / images.shape[1:].numel()


def size_of_png(image: Tensor) -> int:
    """Bytes of a file that holds the image (1 or 3, H, W) uint8."""
    pixels = image.permute(1, 2, 0).numpy()
    file = BytesIO()
    Picture.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(file, "png")
    return file.tell()
