"""Image data sets that Hugging Face's library ``datasets`` has saved to disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, final

import numpy as np
import torch
from PIL import Image as Picture

from flowport.distribution.base import Stored
from flowport.distribution.parts import stratified_split
from flowport.distribution.picture_files import Background, Fit, PictureFiles
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
        size: Height and width in pixels, or one number for both.
        channels: 1 for grey, 3 for colour.
        background: What shows through transparency: white, black, checker, or alpha to keep it as a fourth channel.
        fit: How another aspect ratio is fitted: crop, pad or squash.
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
        size: Annotated[int, Range(least=1, most=16384)] | Sequence[int] = 32,
        channels: int = 3,
        background: Background = "white",
        fit: Fit = "crop",
        modality: Modality | None = None,
        part: str = "train",
    ) -> None:
        files = PictureFiles(size, channels, background, fit)
        parts = _opened(path)
        for name, table in parts.items():
            for column in (image, label):
                if column is not None and column not in table.column_names:
                    raise FlowportError(
                        f"{path} ({name}) has no column {column!r}; it has {', '.join(table.column_names)}"
                    )
        raw = {name: _images(path, name, table, image, files.fitted) for name, table in parts.items()}
        labels, class_names = None, tuple[str, ...]()
        if label is not None:
            labels = torch.cat([_labels(path, name, table, label) for name, table in parts.items()])
            class_names = _class_names(next(iter(parts.values())), label)
        classes = len(class_names) if class_names or labels is None else int(labels.max()) + 1
        splits = _splits({name: len(items) for name, items in raw.items()}, labels)
        super().__init__(
            Path(path).name,
            torch.cat(list(raw.values())),
            labels,
            modality or Image(),
            splits,
            part,
            classes,
            class_names,
            files=files,
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


def _labels(path: str, name: str, table: Any, column: str) -> torch.Tensor:
    values = table[column][:]
    if not all(isinstance(value, int) and value >= 0 for value in values):
        bad = sum(not (isinstance(value, int) and value >= 0) for value in values)
        raise FlowportError(
            f"{path} ({name}): {bad} of {len(values)} labels in column {column!r} are missing or negative, which means "
            "unlabelled: write label=null, or remove that split or these items"
        )
    return torch.tensor(values, dtype=torch.long)


def _class_names(table: Any, column: str) -> tuple[str, ...]:
    return tuple(map(str, getattr(table.features[column], "names", None) or ()))


def _images(path: str, name: str, table: Any, column: str, fit: Any) -> torch.Tensor:
    rows = []
    for k in range(len(table)):
        try:
            value = table[k][column]
            if not isinstance(value, Picture.Image):
                raise ValueError(f"it is of type {type(value).__name__}")
            rows.append(fit(value))
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
