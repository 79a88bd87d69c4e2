"""A folder of files as one tensor, decoded once in parallel and cached on disk by a hash of its content."""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from flowport.cache import home, read_tensors, write_tensors
from flowport.distribution.parts import stratified_split
from flowport.errors import FlowportError

logger = logging.getLogger(__name__)
CACHE = home() / "cache"
MINIMUM_ITEMS = 10
"""Least number of items of a split into 80, 10 and 10 per cent."""
VERSION = 2
"""Version of the decoding, a part of the hash; to be raised when decoding changes."""


@dataclass(frozen=True)
class FolderContents:
    """The decoded items of a folder.

    Args:
        items: Raw items, (N, …).
        file: Index into ``names`` of the file of each item, (N,) int64.
        classes: Index of the sub-folder of each item, (N,) int64; None without sub-folders.
        names: Paths of the files, relative to the folder.
        class_names: Names of the sub-folders, empty without them.
    """

    items: Tensor
    file: Tensor
    classes: Tensor | None
    names: list[str]
    class_names: tuple[str, ...] = ()

    def splits(self) -> dict[str, Tensor]:
        """Items of 80, 10 and 10 per cent of the files, classes in proportion, by a fixed seed.

        All items of a file lie in one split.
        """
        tenth = max(1, int(self.file.max() + 1) // 10)
        return stratified_split(len(self.items), tenth, tenth, self.classes, self.file)


def collect(
    path: str, suffixes: tuple[str, ...], decode: Callable[[Path], NDArray[Any]], options: str, skip_bad_files: bool
) -> FolderContents:
    """All files below a folder that have one of the suffixes, decoded, in the order of their names.

    Where every file lies in a sub-folder, and there are two or more, the first-level sub-folder is the class.

    Args:
        path: The folder.
        suffixes: Accepted suffixes in lower case, with the dot.
        decode: Decodes one file to its items (k, …), all of one shape.
        options: Text of everything that decoding depends on, a part of the hash.
        skip_bad_files: Whether files that cannot be decoded are left out with a warning.

    Raises:
        FlowportError: When the folder is missing, has no such file or gives fewer than 10 items, or a file cannot be
            decoded and ``skip_bad_files`` is false.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FlowportError(f"{path} is not a folder")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    if not files:
        raise FlowportError(f"{path} holds no {', '.join(suffixes)} file: nothing to learn from")
    cache_file = CACHE / f"{_digest(folder, files, options)}.safetensors"
    cached = read_tensors(cache_file)
    if cached is None:
        items, counts, bad = _decoded(folder, files, decode, skip_bad_files)
    else:
        (items, counts), bad = (cached[0][name] for name in ("items", "counts")), cached[1]
    if bad and not skip_bad_files:
        raise FlowportError(_unreadable(path, bad) + ": mend or remove them, or set skip_bad_files=true")
    if bad:
        logger.warning("%s", _unreadable(path, bad) + "; they are left out")
    if len(items) < MINIMUM_ITEMS:
        raise FlowportError(
            f"{path} gives {len(items)} items; at least {MINIMUM_ITEMS} are needed for the 80/10/10 split"
        )
    if cached is None:
        write_tensors(cache_file, {"items": items, "counts": counts}, bad, checksum=True)
        mapped = read_tensors(cache_file)
        items = mapped[0]["items"] if mapped else items  # memory-mapped pages of the file, which can be evicted
    good = [str(f.relative_to(folder)) for f in files if str(f.relative_to(folder)) not in bad]
    file = torch.arange(len(good)).repeat_interleave(counts)
    classes, class_names = _classes(good, file)
    return FolderContents(items, file, classes, good, class_names)


def _unreadable(path: str, bad: dict[str, str]) -> str:
    name, why = next(iter(bad.items()))
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f"{Path(path) / name}{more} cannot be read ({why})"


def _classes(names: list[str], file: Tensor) -> tuple[Tensor | None, tuple[str, ...]]:
    parents = [Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in names]
    kinds = sorted(set(parents))
    if "" in kinds or len(kinds) < 2:
        return None, ()
    return torch.tensor([kinds.index(parent) for parent in parents])[file], tuple(kinds)


def _progress(steps: Iterable[Any], title: str, total: int) -> Iterable[Any]:
    console = Console(stderr=True)
    return track(steps, title, total, console=console, transient=True, disable=not console.is_terminal)


def _digest(folder: Path, files: list[Path], options: str) -> str:
    def one(file: Path) -> bytes:
        content = blake2b(file.read_bytes(), digest_size=8).digest()
        return str(file.relative_to(folder)).encode() + b"\0" + content

    whole = blake2b(f"{VERSION} {options}".encode(), digest_size=8)
    with ThreadPoolExecutor() as pool:
        for part in _progress(pool.map(one, files), f"looking at {folder.name}", len(files)):
            whole.update(part)
    return whole.hexdigest()


def _decoded(
    folder: Path, files: list[Path], decode: Callable[[Path], NDArray[Any]], skip_bad_files: bool
) -> tuple[Tensor, Tensor, dict[str, str]]:
    """The items, the number of items of every readable file, and the fault of every unreadable file by its name."""

    def one(file: Path) -> NDArray[Any] | str:
        try:
            return decode(file)
        except Exception as error:  # decoders of damaged files raise exceptions of any type
            return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__

    good: list[NDArray[Any]] = []
    bad: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        for file, found in zip(
            files, _progress(pool.map(one, files), f"decoding {folder.name}", len(files)), strict=True
        ):
            if isinstance(found, str):
                bad[str(file.relative_to(folder))] = found
                if not skip_bad_files:
                    pool.shutdown(cancel_futures=True)
                    break
            else:
                good.append(found)
    if not good:
        return torch.empty(0), torch.empty(0, dtype=torch.long), bad
    return torch.from_numpy(np.concatenate(good)), torch.tensor([len(g) for g in good]), bad
