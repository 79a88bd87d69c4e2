"""10,000 animal silhouettes in the package animal-shape-mnist."""

import gzip
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from flowport.distribution.base import Stored
from flowport.distribution.packaged import file_of, fitted
from flowport.distribution.parts import stratified_split
from flowport.errors import FlowportError
from flowport.modality import Image, Modality

ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype")} | {
    (f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")
}


class _Arrays(pickle.Unpickler):
    """An unpickler that accepts numpy arrays only, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise FlowportError(f"the silhouettes' file asks for {module}.{name}; only numpy arrays are read from it")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def arrays(path: Path) -> np.ndarray:
    """The numpy array in a gzip-compressed pickle.

    Args:
        path: Path of the file.

    Raises:
        FlowportError: When the pickle contains anything but numpy arrays.
    """
    with gzip.open(path, "rb") as file:
        return np.asarray(_Arrays(file).load())


@lru_cache(maxsize=1)
def _load() -> tuple[Tensor, Tensor, Tensor]:
    paths = [file_of("animal-shape-mnist", f"animal_{kind}_version_3.gz", "silhouettes") for kind in ("data", "label")]
    images = arrays(paths[0]).reshape(-1, 28 * 28)
    _, groups = np.unique(images.view(f"V{28 * 28}").squeeze(1), return_inverse=True)
    raw = torch.from_numpy(images.astype(np.uint8)).view(-1, 1, 28, 28)
    return raw, torch.from_numpy(arrays(paths[1]).astype(np.int64)).flatten(), torch.from_numpy(groups.flatten())


@lru_cache(maxsize=8)
def _fitted(size: int, crop: int, pad: int) -> Tensor:
    return fitted("silhouettes", _load()[0], size, crop, pad)


@lru_cache(maxsize=1)
def _splits() -> dict[str, Tensor]:
    raw, labels, groups = _load()
    return stratified_split(len(raw), 500, 1500, labels, groups)


@final
class Silhouettes(Stored):
    """10,000 animal silhouettes of 28 x 28 pixels, 1000 of each of 10 classes.

    About 8000 train, 500 validation and 1500 test images, stratified. 284 images are copies of others; all copies of an
    image lie in one split. Source: the package animal-shape-mnist (MIT licence).

    Args:
        size: Height and width of the encoded image (1, size, size), in pixels.
        crop: Pixels cut from every edge before the resizing.
        pad: Black pixels at every edge, included in size.
        modality: Encodes the images; None for ``Image`` without augmentation.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When the package is not installed, size, crop and pad do not fit, or the split is unknown.
    """

    def __init__(
        self, size: int = 28, crop: int = 0, pad: int = 0, modality: Modality | None = None, part: str = "train"
    ) -> None:
        labels = _load()[1]
        super().__init__(
            "silhouettes", _fitted(size, crop, pad), labels, modality or Image(), _splits(), part, classes=10
        )
