"""Reward by the size of an image as a file; it has no gradient."""

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
    """Negative bits of an image as a PNG file per value, r = −bits / (C · H · W); computed on the host, image by image.

    Black et al. use JPEG; PNG is lossless.

    Args:
        modality: Modality that decodes points to bytes; None for that of the target.

    References:
        Black et al. 2023, "Training diffusion models with reinforcement learning", arXiv:2305.13301.
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
    """Size of an image as a PNG file, in bytes.

    Args:
        image: Image, (1 or 3, H, W) uint8.
    """
    pixels = image.permute(1, 2, 0).numpy()
    file = BytesIO()
    Picture.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(file, "png")
    return file.tell()
