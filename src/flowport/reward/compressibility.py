"""A reward without a gradient: how small a file an image makes."""

from io import BytesIO
from typing import final

import torch
from PIL import Image as Picture
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.modality import Image
from flowport.reward.base import ModalityReward
from flowport.types import Condition


@final
class Compressibility(ModalityReward[Image]):
    """r = −bits of the image as a PNG file / its number of values: simple images are worth more (Black et al. 2024,
    with PNG for JPEG, for nothing is lost). Computed by the host, an image at a time.

    modality: turns points into bytes; null: that of the target. Raises FlowportError for anything but images of 1 or 3
    channels.
    """

    differentiable = False

    kind, meant = Image, "images of bytes with 1 or 3 channels"

    def __init__(self, modality: Image | None = None) -> None:
        super().__init__(modality)

    def fits(self, target: Distribution) -> bool:
        return super().fits(target) and target.event_shape[0] in (1, 3)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        images = self.known.decode(x1).cpu()
        bits = [8 * size_of_png(image) for image in images]
        return -torch.tensor(bits, device=x1.device) / images.shape[1:].numel()


def size_of_png(image: Tensor) -> int:
    """Bytes of a file that holds the image (1 or 3, H, W) uint8."""
    pixels = image.permute(1, 2, 0).numpy()
    file = BytesIO()
    Picture.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(file, "png")
    return file.tell()
