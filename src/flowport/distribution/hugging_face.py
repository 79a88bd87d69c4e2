"""Image data sets that Hugging Face's library ``datasets`` has saved to disk."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, final

import numpy as np
import torch

from flowport.distribution.base import Stored
from flowport.distribution.parts import stratified_split
from flowport.distribution.user_folders import fitted_picture
from flowport.errors import FlowportError, Range
from flowport.modality import Image, Modality


@final
class HuggingFace(Stored):
    """Images of ``datasets.load_from_disk(path)``, each its central square resized to (channels, size, size) bytes.

    A DatasetDict with a train split has its own splits; a missing validation or test is a tenth of the train images.
    All other data are split 80 / 10 / 10. Needs the extra ``hf``: pip install 'flowport[hf]'.

    Args:
        path: Folder that ``save_to_disk`` wrote.
        image: Name of the column of images.
        label: Name of the column of class numbers; None for no labels.
        size: Height and width, in pixels.
        channels: 1 for grey, 3 for colour.
        modality: Encodes the images; None for ``Image`` without augmentation.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When size or channels is impossible, the extra, the folder or a column is missing, an image
            cannot be read, or the split is unknown or empty.
    """

    def __init__(
        self,
        path: str,
        image: str = "image",
        label: str | None = "label",
        size: Annotated[int, Range(most=16384)] = 32,
        channels: int = 3,
        modality: Modality | None = None,
        part: str = "train",
    ) -> None:
        if size < 1 or channels not in (1, 3):
            raise FlowportError(f"{path} needs size ≥ 1 and channels 1 or 3, not size={size}, channels={channels}")
        parts = _opened(path)
        for name, table in parts.items():
            for column in (image, label):
                if column is not None and column not in table.column_names:
                    raise FlowportError(
                        f"{path} ({name}) has no column {column!r}; it has {', '.join(table.column_names)}"
                    )
        fit = partial(fitted_picture, size=size, channels=channels)
        raw = {name: _images(path, name, table, image, fit) for name, table in parts.items()}
        labels = None
        if label is not None:
            labels = torch.cat([torch.as_tensor(table[label][:]).long() for table in parts.values()])
        classes = 0 if labels is None else int(labels.max()) + 1
        splits = _splits({name: len(items) for name, items in raw.items()}, labels)
        super().__init__(
            Path(path).name, torch.cat(list(raw.values())), labels, modality or Image(), splits, part, classes
        )


def _opened(path: str) -> dict[str, Any]:
    try:
        import datasets
    except ModuleNotFoundError:
        raise FlowportError(
            "distribution=hugging_face needs the package datasets: pip install 'flowport[hf]'"
        ) from None
    try:
        found = datasets.load_from_disk(path)
    except (FileNotFoundError, ValueError) as error:
        raise FlowportError(
            f"{path} is no dataset that datasets.save_to_disk wrote: {str(error).splitlines()[0]}"
        ) from None
    return dict(found) if isinstance(found, datasets.DatasetDict) else {"all": found}


def _images(path: str, name: str, table: Any, column: str, fit: Any) -> torch.Tensor:
    rows = []
    for k in range(len(table)):
        try:
            rows.append(fit(table[k][column]))
        except (OSError, AttributeError, ValueError) as error:
            raise FlowportError(f"{path} ({name}): item {k} of column {column!r} is no image ({error})") from None
    return torch.from_numpy(np.concatenate(rows))


def _splits(sizes: dict[str, int], labels: torch.Tensor | None) -> dict[str, torch.Tensor]:
    bounds, at = dict[str, torch.Tensor](), 0
    for name, size in sizes.items():
        bounds[name] = torch.arange(at, at + size)
        at += size
    if "train" not in bounds:
        return stratified_split(at, at // 10, at // 10, labels)
    train, tenth = bounds["train"], len(bounds["train"]) // 10
    own = None if labels is None else labels[train]
    missing = [name for name in ("validation", "test") if name not in bounds]
    cut = stratified_split(len(train), tenth * ("validation" in missing), tenth * ("test" in missing), own)
    return {
        name: train[cut[name]] if name in (*missing, "train") else bounds[name]
        for name in ("train", "validation", "test")
    }
