"""A cache of trained networks on disk, under file names that hash everything that determines their weights."""

import glob
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)
Net = TypeVar("Net", bound=nn.Module)
Step = TypeVar("Step")
QUIET_SECONDS = 15.0
"""Time between two lines on the progress of long work where there is no terminal."""
LONGEST_NAME = 200
"""Length of a file's name in bytes from which its unfinished file has a hash for a name."""
STALE = 3600
"""Age in seconds from which an unfinished file is taken for that of a killed process."""
Facts = dict[str, float]


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the training of a cached network, by AdamW with a one-cycle learning rate; part of its hash.

    Args:
        rate: Largest learning rate of the cycle.
        decay: Weight decay.
        version: Number to raise when the training code changes, so that networks of earlier versions are not loaded.
        seed: Seed of the initial weights and of the batches.
        steps: Number of steps.
        batch: Number of items of a batch.
        noise: Standard deviation of the noise that the training adds, where it adds noise.

    References:
        Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", arXiv:1711.05101.
        Smith and Topin 2018, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
            arXiv:1708.07120.
    """

    rate: float
    decay: float
    version: int = 1
    seed: int = 20_240_607
    steps: int = 1000
    batch: int = 64
    noise: float = 0.1


def home() -> Path:
    """Folder of all caches: ``FLOWPORT_HOME``, else ``data/`` of a checkout, else ``flowport`` in the user's cache."""
    if os.environ.get("FLOWPORT_HOME"):
        return Path(os.environ["FLOWPORT_HOME"]).expanduser().absolute()
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs").is_dir():
        return checkout / "data"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowport"


def progress(steps: Iterable[Step], title: str, total: int) -> Iterator[Step]:
    """The steps of long work, with a progress bar in a terminal and else a line in the log every 15 seconds.

    Args:
        steps: The steps.
        title: What is done.
        total: Number of steps.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(steps, title, total, console=console, transient=True)
        return
    began = told = time.monotonic()
    for done, step in enumerate(steps):
        now = time.monotonic()
        if now - told > QUIET_SECONDS:
            told = now
            left = (now - began) / max(done, 1) * (total - done)
            logger.info("%s: %d of %d, about %.0f s left", title, done, total, left)
        yield step


def trained(model: Net, recipe: TrainingSettings, title: str, loss: Callable[[], Tensor]) -> Net:
    """The model, trained in place by AdamW with a one-cycle learning rate, in evaluation mode.

    Args:
        model: The network to train.
        recipe: Settings of the training.
        title: Title of the progress bar.
        loss: The loss of a batch that it draws itself, a scalar; called once a step.
    """
    optimizer = torch.optim.AdamW(model.train().parameters(), recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.steps)
    for _ in progress(range(recipe.steps), title, recipe.steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def load_or_train(untrained: Net, path: Path, train: Callable[[], tuple[Net, Facts]]) -> tuple[Net, Facts]:
    """The network that is stored at a path, or a newly trained one, which is stored there.

    A file lock makes concurrent calls safe: one process trains, the other processes load its result. A damaged file
    counts as missing.

    Args:
        untrained: A network of the same architecture, into which the weights are loaded in place.
        path: File of the network, .safetensors.
        train: Trains the network; called where the file is missing or damaged. Returns it and facts on it.

    Returns:
        The network, frozen and in evaluation mode, and its facts, such as its test error, by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        model, facts = untrained, _loaded(untrained, path)
        if facts is None:
            model, facts = train()
            write_tensors(path, model.state_dict(), facts, checksum=True)
    return model.eval().requires_grad_(False), facts


def content_hash(tensors: Iterable[Tensor]) -> str:
    """32 hex digits that identify tensors by their shapes, types and values.

    Args:
        tensors: The tensors, which need not be in memory together.
    """
    digest = blake2b(digest_size=16)
    for tensor in tensors:
        held = tensor.detach().cpu().contiguous()
        digest.update(f"{tuple(held.shape)} {held.dtype}".encode())
        digest.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def kept_number(kind: str, content: str, compute: Callable[[], float]) -> float:
    """A number that is kept on disk for all who ask for it again, or a newly computed one, which is kept.

    A file lock makes concurrent calls safe: one process computes, the others read its result. A damaged file counts as
    missing; where the cache cannot be written, the number is computed for this process alone.

    Args:
        kind: What it is; names its folder.
        content: Hash of all that determines it; names its file.
        compute: Computes it; called where it is not kept.
    """
    path = home() / kind / f"{content}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError:
        return compute()
    try:
        found = _number(path)
        if found is None:
            found = compute()
            with suppress(OSError):
                write_atomically(path, lambda place: place.write_text(json.dumps(found)))
        return found
    finally:
        lock.release()


def _number(path: Path) -> float | None:
    """The finite number of a file; None where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, float) and math.isfinite(found) else None


def write_atomically(path: Path, writer: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there, so that no reader sees an incomplete file.

    Args:
        path: The file; its folder is created.
        writer: Writes to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name
    if len(os.fsencode(name)) > LONGEST_NAME:  # the partial file's name must not be too long where the file's is not
        name = blake2b(os.fsencode(name), digest_size=16).hexdigest()
    for stale in path.parent.glob(f".{glob.escape(name)}.*"):  # of a process that was killed while it wrote
        with suppress(OSError):
            if time.time() - stale.stat().st_mtime > STALE:
                stale.unlink()
    partial = path.with_name(f".{name}.{os.getpid()}")
    try:
        writer(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], checksum: bool = False) -> None:
    """Write tensors and facts to a safetensors file, atomically.

    Args:
        path: The file; its folder is created.
        tensors: Tensors by name.
        facts: Plain values by name, stored in the header of the file.
        checksum: Whether a checksum of the tensors is stored, which ``read_tensors`` verifies by reading all of them.
    """
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = {"facts": json.dumps(dict(facts))} | ({"checksum": _checksum(held)} if checksum else {})
    write_atomically(path, lambda place: save_file(held, place, metadata=header))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and facts that ``write_tensors`` wrote; None where there is no file or it is damaged.

    Args:
        path: The file, which is mapped into memory.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if "checksum" in header and header["checksum"] != _checksum(tensors):
            return None
        return tensors, json.loads(header["facts"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of tensors, because safetensors does not detect a flipped bit."""
    digest = blake2b(digest_size=8)
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _loaded(model: nn.Module, path: Path) -> Facts | None:
    """Loads the weights into the model and returns the facts; None where the file is missing or damaged."""
    found = read_tensors(path)
    if found is None:
        return None
    try:
        model.load_state_dict(found[0])
        return {name: float(value) for name, value in found[1].items()}
    except (TypeError, ValueError, RuntimeError):
        return None
