"""Reading of tensors from untrusted .npy, .npz and .pt files, as numbers only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowport.errors import FlowportError

MAIN, LABELS, ALONE = ("x", "data"), ("label", "labels", "y"), "the array"


def _npy(path: Path) -> dict[str, Any]:
    return {ALONE: np.load(path, allow_pickle=False)}


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _pt(path: Path) -> dict[str, Any]:
    held = torch.load(path, map_location="cpu", weights_only=True)
    arrays = held if isinstance(held, dict) else {ALONE: held}
    for value in arrays.values():  # a few stored numbers may be expanded over gigabytes
        if isinstance(value, Tensor) and value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError("expanded")
    return arrays


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {".npy": _npy, ".npz": _npz, ".pt": _pt}


def read(path: str, key: str | None, label_key: str | None) -> tuple[Tensor, Tensor | None]:
    """The data array and the label array of a file; floating values become float32.

    Args:
        path: Path of a .npy, .npz or .pt file.
        key: Name of the data array; None for the one called x or data, or the only array beside the labels.
        label_key: Name of the label array; None for label, labels or y, where the file has one.

    Returns:
        The data tensor, and the label tensor or None.

    Raises:
        FlowportError: When the file is missing, damaged or holds pickled objects, its suffix is unknown, a key is
            missing or ambiguous, or an array does not hold real numbers.
    """
    place = Path(path)
    if place.suffix not in READERS:
        raise FlowportError(f"path is {path!r}; the file must end in {', '.join(READERS)}")
    if not place.is_file():
        raise FlowportError(f"path is {path!r}, which is not a file; write the path of a {', '.join(READERS)} file")
    try:
        held = READERS[place.suffix](place)
    except Exception:  # readers of damaged files raise anything, from KeyError to UnpicklingError
        raise FlowportError(
            f"{path} cannot be read: it is damaged or holds pickled Python objects; only arrays of numbers are accepted"
        ) from None
    label = label_key or next((name for name in LABELS if name in held), None)
    rest = [name for name in held if name != label]
    main = key or next((name for name in (*MAIN, *rest[: len(rest) == 1]) if name in rest), "")
    names = {"key": main} | ({} if label is None else {"label_key": label})
    for option, name in names.items():
        if name not in held:
            found = ", ".join(map(str, held)) or "nothing"
            raise FlowportError(f"{path} holds {found}; {option} is {name or None!r} and must name one of them")
    return _tensor(path, main, held[main]), None if label is None else _tensor(path, label, held[label])


def _tensor(path: str, name: str, value: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise FlowportError(
            f"{name} in {path} is no array of numbers but {getattr(value, 'dtype', type(value))}"
        ) from None
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise FlowportError(f"{name} in {path} holds {tensor.dtype}; real numbers or bytes are accepted")
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
