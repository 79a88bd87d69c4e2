"""The handwritten digits in the package scikit-learn."""

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
    table = torch.from_numpy(np.loadtxt(file_of("scikit-learn", "digits.csv.gz", "digits"), delimiter=","))
    return table[:, :-1].mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8), table[:, -1].long()


@lru_cache(maxsize=8)
def _fitted(size: int, pad: int) -> Tensor:
    return fitted("digits", _load()[0], size, 0, pad)


@final
class Digits(Stored):
    """1797 handwritten digits of 8 x 8 pixels in 17 grey levels and 10 classes.

    1400 train, 100 validation and 297 test images, stratified.

    Args:
        size: Height and width of the encoded image (1, size, size), in pixels.
        pad: Black pixels at every edge, included in size (size=28, pad=4 gives the layout of MNIST).
        modality: Encodes the images; None for ``Image`` without augmentation.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When size and pad do not fit, or the split is unknown.

    References:
        Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits", UCI Machine Learning Repository,
            doi:10.24432/C50P49.
    """

    def __init__(self, size: int = 8, pad: int = 0, modality: Modality | None = None, part: str = "train") -> None:
        labels = _load()[1]
        splits = stratified_split(len(labels), 100, 297, labels)
        super().__init__("digits", _fitted(size, pad), labels, modality or Image(), splits, part, classes=10)
