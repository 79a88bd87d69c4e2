"""The user's own data in one file with one array."""

from typing import final

import torch
from torch import Tensor

from flowport.distribution.base import Stored
from flowport.distribution.parts import stratified_split
from flowport.distribution.reading import read
from flowport.errors import FlowportError
from flowport.modality import FloatImage, Image, Modality, Plane

KINDS: dict[tuple[int, bool], type[Modality]] = {
    (2, False): Plane,
    (2, True): Plane,
    (4, False): FloatImage,
    (4, True): Image,
}


@final
class TensorFile(Stored):
    """Items of a .npy, .npz or .pt file, split 80 / 10 / 10 by a fixed seed with classes in proportion.

    The file is untrusted and read as numbers only. An array (N, d) holds points (``Plane``); bytes (N, C, H, W) with
    C = 1 or 3, or (N, H, W), hold images that are encoded in [−1, 1] (``Image``); floating (N, C, H, W) hold images
    with unchanged values (``FloatImage``). Labels (N,) of whole numbers from 0 are classes; floating (N,) or (N, k) are
    continuous.

    Args:
        path: Path of the file.
        key: Name of the array in an .npz file or in a dictionary of a .pt file; None for x, data, or the only array.
        label_key: Name of the labels; None for label, labels or y, where the file has one.
        modality: Encodes the items, which may then have any shape (N, …); None for the modality given by the shape.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When the file cannot be read, has fewer than 10 items, NaN or infinite values, or arrays of other
            shapes, or the split is unknown.
    """

    def __init__(
        self,
        path: str,
        key: str | None = None,
        label_key: str | None = None,
        modality: Modality | None = None,
        part: str = "train",
    ) -> None:
        raw, labels = read(path, key, label_key)
        if len(raw.shape) == 0 or raw.numel() == 0:
            raise FlowportError(
                f"{path} holds an empty array of shape {tuple(raw.shape)}; at least 10 items are needed"
            )
        if len(raw) < 10:
            raise FlowportError(f"{path} holds {len(raw)} items; at least 10 are needed for the 80/10/10 split")
        raw = raw[:, None] if modality is None and raw.ndim == 3 and raw.dtype == torch.uint8 else raw
        modality = modality or _modality(path, raw)
        labels, classes = (None, 0) if labels is None else _labels(path, labels, len(raw))
        tenth = len(raw) // 10
        splits = stratified_split(len(raw), tenth, tenth, labels if classes else None)
        super().__init__(path, raw, labels, modality, splits, part, classes)


def _modality(path: str, raw: Tensor) -> Modality:
    kind = raw.ndim, raw.dtype == torch.uint8
    if kind not in KINDS:
        raise FlowportError(
            f"{path} holds an array {tuple(raw.shape)} of {raw.dtype}; allowed are points (N, d), images (N, C, H, W) "
            f"and bytes (N, H, W)"
        )
    if kind == (4, True) and raw.shape[1] not in (1, 3):
        raise FlowportError(
            f"{path} holds images {tuple(raw.shape)}; they must be (N, C, H, W) with C = 1 or 3, channels first"
        )
    return KINDS[kind]()


def _labels(path: str, labels: Tensor, n: int) -> tuple[Tensor, int]:
    """(labels, classes): int64 classes and their number, or float32 (N, k) and 0."""
    if len(labels.shape) == 0 or len(labels) != n:
        raise FlowportError(
            f"{path} holds {n} items but labels of shape {tuple(labels.shape)}; every item needs one label"
        )
    if labels.is_floating_point():
        if not labels.isfinite().all():
            raise FlowportError(f"the labels in {path} hold NaN or infinite values; every label must be finite")
        return labels.reshape(n, -1).to(torch.float32), 0
    if labels.ndim != 1 or int(labels.min()) < 0:
        raise FlowportError(
            f"{path} has labels {tuple(labels.shape)} from {int(labels.min())}; classes must be (N,) numbers from 0"
        )
    return labels.long(), int(labels.max()) + 1
