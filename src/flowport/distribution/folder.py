"""A folder of files as one tensor, decoded once in parallel and cached on disk by a hash of its content."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from flowport.cache import home, progress, read_tensors, write_atomically, write_tensors
from flowport.distribution.files import Files, MissingPackage, Reading
from flowport.distribution.parts import stratified_split
from flowport.errors import FlowportError

logger = logging.getLogger(__name__)
CACHE = home() / "cache"
MINIMUM_ITEMS = 10
"""Least number of items of a split into 80, 10 and 10 per cent."""
VERSION = 3
"""Version of the decoding, a part of the hash; to be raised when decoding changes."""
ARCHIVE = "__MACOSX"
"""Folder of metadata that archives of macOS hold."""


@dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Args:
        folder: The folder.
        names: Paths of the files of the wanted kind, relative to the folder, sorted.
        others: Number of other files by suffix.
        hidden: Number of hidden files and folders, which are left out.
        broken: Links that lead nowhere and what is no regular file, with the reason, by relative path.
    """

    folder: Path
    names: list[str]
    others: Counter[str]
    hidden: int
    broken: dict[str, str]


def listed(path: str | Path, suffixes: tuple[str, ...]) -> Listing:
    """The files below a folder; links are followed, hidden files and folders are left out.

    Args:
        path: The folder.
        suffixes: Suffixes of the wanted kind, in lower case, with the dot.

    Raises:
        FlowportError: When the folder is missing.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FlowportError(f"{path} is not a folder")
    found, others, hidden, broken, seen = list[str](), Counter[str](), 0, dict[str, str](), set[str]()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above, or to one that was read before
            folders.clear()
            continue
        seen.add(real)
        shown = sorted(name for name in folders if not _is_hidden(name))
        hidden += len(folders) - len(shown)
        folders[:] = shown
        for name in files:
            file = Path(place, name)
            if _is_hidden(name):
                hidden += 1
            elif file.suffix.lower() not in suffixes:
                others[file.suffix.lower() or "no suffix"] += 1
            elif not file.is_file():
                reason = "a link that leads nowhere" if file.is_symlink() else "no regular file"
                broken[file.relative_to(folder).as_posix()] = reason
            else:
                found.append(file.relative_to(folder).as_posix())
    return Listing(folder, sorted(found), others, hidden, broken)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == ARCHIVE


@dataclass(frozen=True)
class FolderContents:
    """The decoded items of a folder.

    Args:
        items: Raw items, (N, …).
        file: Index into ``names`` of the file of each item, (N,) int64.
        classes: Index of the sub-folder of each item, (N,) int64; None without sub-folders.
        names: Paths of the files, relative to the folder.
        class_names: Names of the sub-folders, empty without them.
        groups: Name of the group of every file, whose items lie in one split.
    """

    items: Tensor
    file: Tensor
    classes: Tensor | None
    names: list[str]
    class_names: tuple[str, ...] = ()
    groups: list[str] = field(default_factory=list)

    def splits(self) -> dict[str, Tensor]:
        """Items of 80, 10 and 10 per cent of the groups of files, classes in proportion, by the groups' names.

        All items of a group lie in one split. Folders of the same names have the same splits.
        """
        numbers = {name: k for k, name in enumerate(dict.fromkeys(self.groups))}
        group = torch.tensor([numbers[name] for name in self.groups])[self.file]
        tenth = max(1, len(numbers) // 10)
        return stratified_split(len(self.items), tenth, tenth, self.classes, group, list(numbers))

    def item_names(self) -> tuple[str, ...]:
        """The name of every item: that of its file, with ``#k`` for the k-th further item of a file."""
        count, names = Counter[int](), list[str]()
        for k in self.file.tolist():
            names.append(self.names[k] + (f"#{count[k]}" if count[k] else ""))
            count[k] += 1
        return tuple(names)


def collect(path: str, files: Files, skip_bad_files: bool = False, group_by: str | None = None) -> FolderContents:
    """All files of a kind below a folder, decoded, in the order of their names.

    Where files lie in two or more first-level sub-folders, these are the classes. Fewer files beside them than in them
    are left out, which is said; more of them mean that there are no classes, which is said too.

    Args:
        path: The folder.
        files: How its files are read.
        skip_bad_files: Whether files that cannot be decoded are left out with a warning.
        group_by: Regular expression that is searched in file names: files of one folder with an equal first group of it
            (or whole match, without groups) lie in one split. Files without a match are groups of their own.

    Raises:
        FlowportError: When the folder is missing, has no such file or gives fewer than 10 items, the expression is
            none, or a file cannot be decoded and ``skip_bad_files`` is false.
    """
    listing = listed(path, files.suffixes)
    names = _beside_classes(path, listing.names)
    report(path, listing, files, names)
    if not listing.names:
        raise FlowportError(f"{path} holds no {', '.join(files.suffixes)} file: nothing to learn from")
    grouped = _grouped(names, group_by)
    cache_file = CACHE / f"{_digest(listing.folder, names, files)}.safetensors"
    items, counts, facts = _kept(cache_file, lambda: _decoded(listing.folder, names, files))
    for note, number in facts["notes"].items():
        logger.warning("%s: %d %s %s", path, number, files.kind, note)
    bad = {**listing.broken, **facts["bad"]}
    if bad:
        _refuse_or_warn(path, bad, cache_file.with_suffix(".unreadable.txt"), skip_bad_files)
    if len(items) < MINIMUM_ITEMS:
        raise FlowportError(
            f"{path} gives {len(items)} items; at least {MINIMUM_ITEMS} are needed for the 80/10/10 split"
        )
    kept = [k for k, name in enumerate(names) if name not in bad]
    good = [names[k] for k in kept]
    file = torch.arange(len(good)).repeat_interleave(counts)
    classes, class_names = _classes(good, file)
    return FolderContents(items, file, classes, good, class_names, [grouped[k] for k in kept])


Decoded = tuple[Tensor, Tensor, dict[str, Any]]
"""Items, their number per file, and facts."""


def _kept(path: Path, decode: Callable[[], Decoded]) -> Decoded:
    """The decoded data of a file of the cache; of several processes that ask at once, one decodes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError:  # the cache cannot be written
        lock = None
    try:
        cached = read_tensors(path)
        if cached is not None:
            return cached[0]["items"], cached[0]["counts"], cached[1]
        items, counts, facts = decode()
        if len(items) and not facts.pop("missing"):
            write_tensors(path, {"items": items, "counts": counts}, facts, checksum=True)
            mapped = read_tensors(path)
            items = mapped[0]["items"] if mapped else items  # memory-mapped pages of the file, which can be evicted
        return items, counts, facts
    finally:
        if lock is not None:
            lock.release()


def report(path: str, listing: Listing, files: Files, names: list[str]) -> None:
    """Say once what is read of a folder and what is not.

    Args:
        path: The folder.
        listing: What it holds.
        files: How its files are read.
        names: The files that are read.
    """
    counts = Counter(PurePosixPath(name).suffix.lower() for name in names)
    held = ", ".join(f"{number:,} {suffix}" for suffix, number in counts.most_common())
    others = {suffix: n for suffix, n in listing.others.items() if suffix not in files.unread}
    left = [f"{n:,} {suffix}" for suffix, n in Counter(others).most_common()]
    left += [f"{listing.hidden:,} hidden or {ARCHIVE}"] * (listing.hidden > 0)
    logger.info("%s: %s%s", path, held or "nothing", f"; left out: {', '.join(left)}" if left else "")
    for suffix, advice in files.unread.items():
        if listing.others[suffix]:
            logger.warning("%s: %d %s files are not read: %s", path, listing.others[suffix], suffix, advice)


def _beside_classes(path: str, names: list[str]) -> list[str]:
    """The files that are read: without those beside two or more class folders that hold more files."""
    beside = [name for name in names if "/" not in name]
    inside = [name for name in names if "/" in name]
    kinds = {PurePosixPath(name).parts[0] for name in inside}
    if not beside or len(kinds) < 2:
        return names
    if len(beside) < len(inside):
        logger.warning(
            "%s: %d files beside the %d class folders have no class and are left out: %s",
            path,
            len(beside),
            len(kinds),
            _some(beside),
        )
        return inside
    logger.warning(
        "%s: its %d sub-folders are no classes, because most files (%d) lie beside them: move these into a folder of "
        "their class for labels",
        path,
        len(kinds),
        len(beside),
    )
    return names


def _grouped(names: list[str], pattern: str | None) -> list[str]:
    """The group of every file."""
    own = [str(PurePosixPath(name).with_suffix("")) for name in names]
    if pattern is None:
        return own
    try:
        matches = [re.search(pattern, PurePosixPath(name).name) for name in names]
    except re.error as error:
        raise FlowportError(f"group_by={pattern} is no regular expression: {error}") from None
    if not any(matches):
        raise FlowportError(f"group_by={pattern} matches no file name, of which the first is {names[0]}")
    found = [
        name if match is None else f"{PurePosixPath(name).parent}/{match.group(1 if match.re.groups else 0)}"
        for name, match in zip(own, matches, strict=True)
    ]
    groups = len(set(found))
    if groups < MINIMUM_ITEMS:
        raise FlowportError(
            f"group_by={pattern} makes {groups} groups of {len(names)} files; at least {MINIMUM_ITEMS} are needed for "
            "the 80/10/10 split: give a pattern that tells more of them apart"
        )
    logger.info("group_by=%s: %d files in %d groups, each in one split", pattern, len(names), groups)
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _refuse_or_warn(path: str, bad: dict[str, str], report: Path, skip_bad_files: bool) -> None:
    """Name the first unreadable file and list all of them, with their reasons, in a file."""
    text = "".join(f"{name}\t{why}\n" for name, why in bad.items())
    write_atomically(report, lambda place: place.write_text(text, encoding="utf-8"))
    name, why = next(iter(bad.items()))
    more = f" and {len(bad) - 1} more (all are listed in {report})" if len(bad) > 1 else ""
    told = f"{Path(path) / name} cannot be read ({why}){more}"
    if not skip_bad_files:
        raise FlowportError(told + ": mend or remove them, or set skip_bad_files=true")
    logger.warning("%s; left out: %d of the files", told, len(bad))


def _classes(names: list[str], file: Tensor) -> tuple[Tensor | None, tuple[str, ...]]:
    parents = [PurePosixPath(name).parts[0] if "/" in name else "" for name in names]
    kinds = sorted(set(parents))
    if "" in kinds or len(kinds) < 2:
        return None, ()
    return torch.tensor([kinds.index(parent) for parent in parents])[file], tuple(kinds)


def _digest(folder: Path, names: list[str], files: Files) -> str:
    """A hash of names and contents, of the settings, and of the readers that are installed."""

    def one(name: str) -> bytes:
        return name.encode() + b"\0" + blake2b((folder / name).read_bytes(), digest_size=8).digest()

    options = f"{VERSION} {type(files).__name__} {sorted(files.options().items())} {_readers(files)}"
    whole = blake2b(options.encode(), digest_size=8)
    with ThreadPoolExecutor() as pool:
        for part in progress(pool.map(one, names), f"looking at {folder.name}", len(names)):
            whole.update(part)
    return whole.hexdigest()


def _readers(files: Files) -> list[str]:
    missing = {module for module in files.packages if find_spec(module) is None}
    return [
        f"{module} {'missing' if module in missing else metadata.version(package)}"
        for module, package in files.packages.items()
    ]


def reading_of(files: Files, path: Path) -> Reading:
    """What is read of a file that is not empty.

    Args:
        files: How it is read.
        path: The file.

    Raises:
        ValueError: When it is empty, or cannot be understood.
    """
    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    return files.read(path)


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, in a line.

    Args:
        error: What its reader raised.
    """
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__


def _decoded(folder: Path, names: list[str], files: Files) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The items, the number of items of every readable file, and the facts: what cannot be read, and notes."""
    missing = False

    def one(name: str) -> tuple[NDArray[Any], str] | str:
        nonlocal missing
        try:
            reading = reading_of(files, folder / name)
        except Exception as error:  # decoders of damaged files raise exceptions of any type
            missing = missing or isinstance(error, MissingPackage)
            return reason_of(error)
        return reading.items, reading.note

    good: list[NDArray[Any]] = []
    bad, notes = dict[str, str](), Counter[str]()
    with ThreadPoolExecutor() as pool:
        found: Iterator[Any] = iter(progress(pool.map(one, names), f"decoding {folder.name}", len(names)))
        for name, result in zip(names, found, strict=True):
            if isinstance(result, str):
                bad[name] = result
            else:
                good.append(result[0])
                notes.update([result[1]] if result[1] else [])
    facts = {"bad": bad, "notes": dict(notes), "missing": missing}
    if not good:
        return torch.empty(0), torch.empty(0, dtype=torch.long), facts
    return torch.from_numpy(np.concatenate(good)), torch.tensor([len(g) for g in good]), facts
