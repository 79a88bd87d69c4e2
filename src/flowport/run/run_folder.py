"""The folder of a run: the only place that names its files, reads them safely and writes them atomically."""

import io
import json
import platform
import re
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowport import __version__
from flowport.cache import write_atomically
from flowport.errors import FlowportError, Stopped, printable
from flowport.run.trust import check_config, check_references

LAYOUT = 3
"""The layout of run folders, configs and checkpoints: raised where an older one can no longer be read."""
LARGEST_CONFIG, LARGEST_JSON, LARGEST_TABLE = 2**18, 2**24, 2**26
"""Sizes of the largest config, file of numbers and table of items that are read, in bytes."""
PENDING = "train/pending"
"""Name, in the numbers of a run, of what is still missing of them."""
MOST_REFERENCES = 256
"""Largest number of references of a config."""
DEEPEST = 32
"""Deepest nesting of a config."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, made absolute, so that nothing depends on the working directory.

    Args:
        path: The folder; it need not exist before something is written.
        trust: Whether its config may build any class and run any program.
    """

    path: Path
    trust: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).expanduser().absolute())

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Path:
        """The composed config, with what was measured of the data."""
        return self.path / ".hydra" / "config.yaml"

    @property
    def stamp(self) -> Path:
        """What built the run: versions, layout, git commit, host."""
        return self.path / "built_by.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.checkpoints / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """All numbers of a finished run; while a certificate is missing, those of before, and ``PENDING``."""
        return self.path / "metrics.json"

    @property
    def before(self) -> Path:
        """Numbers measured before training, which a resumed run reports again."""
        return self.path / "before.json"

    @property
    def sides(self) -> Path:
        """What the run remembers of source and target (``flowport.data.remembered``)."""
        return self.path / "sides.json"

    @property
    def trace(self) -> Path:
        """torch's trace of some training steps (``profile=true``)."""
        return self.path / "profile.json"

    @property
    def profile(self) -> Path:
        """The table of the operations in that trace."""
        return self.path / "profile.txt"

    @property
    def gallery(self) -> Path:
        """The picture of sources, translations and targets."""
        return self.path / "gallery.png"

    @property
    def translation(self) -> Path:
        """The row of translations alone."""
        return self.path / "translation.png"

    @property
    def items(self) -> Path:
        """The numbers of every held-out source item."""
        return self.path / "items.csv"

    @property
    def confusion(self) -> Path:
        """Numbers of items by class before and class after."""
        return self.path / "confusion.csv"

    @property
    def confusion_picture(self) -> Path:
        """The picture of the confusion of classes."""
        return self.path / "confusion.png"

    def example(self, row: str) -> Path:
        """The picture of one row of the items that are shown.

        Args:
            row: ``"source"``, ``"translation"``, ``"partner"``, ``"target"`` or ``"ways"``.
        """
        return self.path / "examples" / f"{row}.png"

    @property
    def show(self) -> Path:
        """The clouds and points of the plane of the items that are shown."""
        return self.path / "examples" / "show.json"

    def sounds(self) -> dict[str, list[Path]]:
        """The sounds of the items that are shown, by row, in their order."""
        found = dict[str, list[Path]]()
        for path in sorted((self.path / "examples").glob("*_[0-9].wav")):
            found.setdefault(path.stem[:-2], []).append(path)
        return found

    @property
    def refusal(self) -> Path:
        """Why a job of a sweep that goes on without it was refused."""
        return self.path / "refused.txt"

    @property
    def status(self) -> Path:
        """The state of a job of a sweep."""
        return self.path / "status.json"

    @property
    def progress(self) -> Path:
        """How far the training of a job of a sweep is, while it runs."""
        return self.path / "progress.json"

    @property
    def traceback(self) -> Path:
        """Where a failed job of a sweep was when it failed."""
        return self.path / "traceback.txt"

    @property
    def said(self) -> Path:
        """What a job of a sweep printed."""
        return self.path / "output.txt"

    @property
    def before_after(self) -> Path:
        """The picture of the same starts through the base and the fine-tuned flow."""
        return self.path / "before_after.png"

    def pictures(self) -> dict[str, Path]:
        """The pictures of the end that are there, by the names under which loggers have them."""
        known = {"before_after": self.before_after}
        return {name: path for name, path in known.items() if path.is_file()}

    def watch_sheet(self, step: int) -> Path:
        """The picture of a tuning beside its base after a number of steps.

        Args:
            step: Number of optimiser steps.
        """
        return self.path / "watch" / f"{step:06d}.png"

    @property
    def pairs(self) -> Path:
        """Stored pairs of source and target points, for ``pairing=stored``."""
        return self.path / "pairs.safetensors"

    @property
    def files(self) -> Path:
        """The folder of translated files."""
        return self.path / "files"

    @property
    def unreadable(self) -> Path:
        """The list of the files that could not be read."""
        return self.path / "unreadable.txt"

    @property
    def translated(self) -> Path:
        """Translated points, encoded."""
        return self.path / "translated.npy"

    @property
    def duel(self) -> Path:
        """The config of a finished duel of the arena."""
        return self.path / "duel.yaml"

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.checkpoint.is_file()

    @property
    def finished(self) -> bool:
        """Whether the run has written all its numbers: not where the certificate of a tuning is missing."""
        return self.metrics.is_file() and not self.pending

    @property
    def pending(self) -> str:
        """What the numbers of a trained run still miss, the certificate of a tuning; empty for nothing."""
        try:
            return str(self.read_metrics().get(PENDING, "")) if self.metrics.is_file() else ""
        except FlowportError:  # a damaged file, of which its readers say so
            return ""

    def round(self, number: int) -> "RunFolder":
        """The folder of an earlier round of boosting or reflow.

        Args:
            number: Of the round.
        """
        return RunFolder(self.path / "rounds" / str(number), self.trust)

    def create(self) -> "RunFolder":
        """Make the folder where it does not exist, and return it."""
        self.path.mkdir(parents=True, exist_ok=True)
        return self

    @contextmanager
    def locked(self) -> Iterator["RunFolder"]:
        """A context in which no other process writes into the folder.

        Raises:
            FlowportError: Where another process does.
        """
        place = self.path / ".lock"
        if place.is_symlink() or (place.exists() and not place.is_file()):
            raise FlowportError(f"{place} is no regular file: remove it")
        lock = FileLock(place, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise FlowportError(
                f"run={self} is being written by another process: wait for it, or give another folder"
            ) from None
        for partial in self.path.glob(".*"):  # of a process that was killed while it wrote
            if re.fullmatch(r"\..+\.\d+", partial.name) and partial.is_file():
                partial.unlink(missing_ok=True)
        try:
            yield self
        finally:
            place.unlink(missing_ok=True)
            lock.release()

    def check_links(self) -> None:
        """Check that the folder holds files and folders alone.

        Through a symbolic link a command would write elsewhere; a pipe or a device would block it.

        Raises:
            FlowportError: Naming the first other entry.
        """
        if not self.path.is_dir():
            return
        board = self.path / "tensorboard"
        held = (self.path / name for name in (".hydra", "gallery", "examples", "csv", "watch"))
        folders = [self.path, *held, self.checkpoints, board, *board.glob("*")]
        for folder in folders:  # a folder before what is in it
            for entry in folder.iterdir() if folder.is_dir() else ():
                if entry.is_symlink():
                    raise FlowportError(f"{entry} is a symbolic link: a run is written into real files and folders")
                if not (entry.is_file() or entry.is_dir()):
                    raise FlowportError(f"{entry} is neither a file nor a folder: remove it from the run's folder")

    def overrides(self) -> dict[str, str]:
        """The overrides of a job of a sweep, key to value, as Hydra wrote them; without deletions ``~key``.

        Raises:
            FlowportError: Where there are none.
        """
        path = self.path / ".hydra" / "overrides.yaml"
        try:
            words = OmegaConf.to_container(load_yaml(path))
        except (OSError, OmegaConfBaseException, yaml.YAMLError) as error:
            raise FlowportError(f"{path} is not readable: {printable(str(error).splitlines()[0])}") from None
        if not isinstance(words, list):
            raise FlowportError(f"{path} is not the list of a job's overrides")
        pairs = (str(word).lstrip("+").partition("=") for word in words if not str(word).startswith("~"))
        return {key: value for key, _, value in pairs}

    def read_config(self) -> DictConfig:
        """The run's config, with every reference resolved, so that what was checked stays what is built.

        Raises:
            FlowportError: Where there is none, where it cannot be read, where another layout wrote it, and where it
                would build anything but known classes.
        """
        if not self.path.is_dir():
            raise FlowportError(f"run={self} is not a folder: give the folder that a training run wrote")
        if not self.config.is_file():
            raise FlowportError(f"run={self} has no .hydra/config.yaml: give the folder that a training run wrote")
        self._check_stamp()
        try:
            config = load_yaml(self.config)
            if not isinstance(config, DictConfig):
                raise FlowportError(f"{self.config} is not a run's config")
            if not self.trust:
                check_config(OmegaConf.to_container(config, resolve=False), str(self.config))
                check_references(config, str(self.config))
            resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        except (OSError, ValueError, RecursionError, OmegaConfBaseException, yaml.YAMLError) as error:
            if isinstance(error, FlowportError):
                raise
            reason = printable((str(error) or type(error).__name__).splitlines()[0])
            raise FlowportError(f"{self.config} is not a readable config: {reason}") from None
        if not self.trust:
            check_config(OmegaConf.to_container(resolved), str(self.config))  # of interpolated paths
        assert isinstance(resolved, DictConfig)
        return resolved

    def holds(self, config: DictConfig) -> bool:
        """Whether the folder holds a run of a config that has a checkpoint or is finished.

        Args:
            config: The config of a run; what its modalities leave null may have been measured there.
        """
        if not self.config.is_file() or not (self.begun or self.finished):
            return False
        try:
            here = OmegaConf.to_container(self.read_config())
        except FlowportError:
            return False
        return _covers(here, OmegaConf.to_container(config, resolve=True))

    def write_config(self, config: DictConfig, sides: Mapping[str, Any] | None = None) -> None:
        """Write the config, the stamp of what built the run, and what it remembers of its sides.

        Args:
            config: The composed config, with what was measured.
            sides: Facts of source and target; None leaves them as they are.
        """
        write_atomically(self.config, lambda path: OmegaConf.save(config, path))
        write_json(self.stamp, built_by())
        if sides is not None:
            write_json(self.sides, sides)

    def read_checkpoint(self) -> dict[str, Any]:
        """The last checkpoint, as tensors only.

        Raises:
            FlowportError: Where there is none, and where it is damaged or holds code.
        """
        if not self.begun:
            raise FlowportError(
                f"run={self} has no checkpoint (checkpoints/last.ckpt): its training saved none, start it anew"
            )
        try:
            with zipfile.ZipFile(self.checkpoint) as archive:  # torch.load does not verify the checksums that it wrote
                if (bad := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {bad} is wrong")
            checkpoint = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = re.split(r"[\n.:]", str(error).strip())[0][:100] or type(error).__name__
            raise FlowportError(
                f"{self.checkpoint} cannot be loaded as plain tensors ({reason}): it is half-written, damaged or "
                "holds code"
            ) from None
        state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise FlowportError(f"{self.checkpoint} is not a checkpoint of a flow: it has no state_dict of tensors")
        return checkpoint

    @property
    def digest(self) -> str:
        """16 hex digits that identify the last checkpoint."""
        return sha256(self.checkpoint.read_bytes()).hexdigest()[:16]

    def read_metrics(self) -> dict[str, Any]:
        """All numbers of a finished run, or those before its certificate.

        Raises:
            FlowportError: Where the file is damaged.
        """
        return read_json(self.metrics)

    def read_items(self) -> str:
        """The text of the table of items.

        Raises:
            FlowportError: For what is no regular file of text of a bounded size.
        """
        return _text(self.items, LARGEST_TABLE)

    def read_refusal(self) -> str:
        """Why the job was refused.

        Raises:
            FlowportError: For what is no regular file of text of a bounded size.
        """
        return " ".join(_text(self.refusal, LARGEST_CONFIG).split())

    def write_metrics(self, numbers: Mapping[str, Any], pending: str = "") -> None:
        """Write the numbers of the run, which finishes it unless more are to come.

        Args:
            numbers: Name to number.
            pending: What is still missing; empty for nothing.
        """
        write_json(self.metrics, {**numbers, PENDING: pending} if pending else numbers)

    def read_before(self) -> dict[str, Any]:
        """What was measured before training; empty where nothing was.

        Raises:
            FlowportError: Where the file is damaged.
        """
        return read_json(self.before) if self.before.exists() else {}

    def _check_stamp(self) -> None:
        """Raise FlowportError where an older or newer layout wrote the folder."""
        built = read_json(self.stamp) if self.stamp.exists() else {"layout": 1, "flowport": "before 0.2.0"}
        if not {"layout", "flowport"} <= set(built):
            raise FlowportError(f"{self.stamp} is damaged: it must hold the versions that built the run")
        layout, version = built["layout"], f"{built['flowport']!s:.40}"
        if layout != LAYOUT:
            raise FlowportError(
                f"run={self} was written by flowport {version}, whose run folders flowport {__version__} does not "
                "read: train it again, or use that version"
            )


def _covers(here: Any, wanted: Any, measured: bool = False) -> bool:
    """Whether two configs are equal but for what a modality of the second one leaves null, to be measured."""
    if isinstance(here, dict) and isinstance(wanted, dict):
        keys = here.keys() | wanted.keys()
        return all(_covers(here.get(key), wanted.get(key), measured or key == "modality") for key in keys)
    return here == wanted or (measured and wanted is None)


def going_on(number: int, folder: RunFolder, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run one round of a command of several; a signal in it says how to go on.

    Args:
        number: Of the round, from 1.
        folder: The command's.
        run: The round.

    Raises:
        Stopped: Where a signal ended it.
    """
    try:
        return run()
    except (Stopped, KeyboardInterrupt) as stop:
        received = stop.status - 128 if isinstance(stop, Stopped) else int(signal.SIGINT)
        state = f"in round {number}: go on by the same command with hydra.run.dir={folder}"
        raise Stopped(received, state) from None


def load_yaml(path: Path) -> Any:
    """A config file, of bounded size and depth and without aliases, by which a few lines could stand for gigabytes.

    Args:
        path: The file.

    Raises:
        FlowportError: For what is no file, is too large or too deep, or has aliases.
    """
    text, depth = _text(path, LARGEST_CONFIG), 0
    if text.count("${") > MOST_REFERENCES:
        raise FlowportError(f"{path} has more than {MOST_REFERENCES} references (${{key}}): write the values")
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise FlowportError(f"{path} has YAML aliases (*name): a config is written without them")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise FlowportError(f"{path} is nested more than {DEEPEST} levels deep: it is no config")
    return OmegaConf.load(io.StringIO(text))


def _text(path: Path, largest: int) -> str:
    """The text of a file that a stranger may have made: a regular one, no link to a device, of bounded size."""
    if path.is_symlink():
        raise FlowportError(f"{path} is a symbolic link: a run is written into real files and folders")
    if not path.is_file():
        raise FlowportError(f"{path} is no regular file")
    if path.stat().st_size > largest:
        raise FlowportError(f"{path} has {path.stat().st_size:,} bytes: a file of a run has at most {largest:,} there")
    try:
        return path.read_text()
    except UnicodeDecodeError:
        raise FlowportError(f"{path} is no text file") from None


def read_json(path: Path) -> dict[str, Any]:
    """The values of a JSON file that ``write_json`` wrote.

    Args:
        path: The file.

    Raises:
        FlowportError: For what is no regular file of a mapping.
    """
    try:
        found = json.loads(_text(path, LARGEST_JSON))
    except FlowportError:
        raise
    except (ValueError, RecursionError):
        raise FlowportError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(found, dict):
        raise FlowportError(f"{path} is damaged: it must hold values by name")
    return found


def finished_runs(folder: Path) -> list[RunFolder]:
    """The finished jobs of a sweep, in the order of their numbers.

    Args:
        folder: The folder that a multirun wrote.

    Raises:
        FlowportError: Where there is none.
    """
    found = [RunFolder(path) for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    found = sorted((run for run in found if run.finished), key=lambda run: (len(run.path.name), run.path.name))
    if not found:
        raise FlowportError(f"{folder} holds no finished runs (<job>/metrics.json): give the folder that a sweep wrote")
    return found


def built_by() -> dict[str, Any]:
    """What builds a run now: versions of flowport, its layout, Python and the main libraries, git commit, host."""
    return {
        "flowport": __version__,
        "layout": LAYOUT,
        "git": _git(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": metadata.version("lightning"),
        "host": platform.node(),
    }


@cache  # of the code that this process has read
def _git() -> str | None:
    """The commit of the checkout that flowport runs from, with ``-dirty`` after local changes; None when installed."""
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        return None
    words = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def write_json(path: Path, numbers: Mapping[str, Any]) -> None:
    """Write numbers as JSON, atomically.

    Args:
        path: The file.
        numbers: Name to number.
    """
    write_atomically(path, lambda place: place.write_text(json.dumps(numbers, indent=2, sort_keys=True) + "\n"))


def check_fits(module: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Check that weights have the names and shapes of a module.

    Args:
        module: The module.
        state: Name to weight.
        path: Their file, for messages.

    Raises:
        FlowportError: Naming the first difference.
    """
    own = module.state_dict()
    for name, value in own.items():
        if name not in state:
            raise FlowportError(f"{path} does not fit this run: it has no weight called {name}")
        if not _is_plain(state[name]):
            raise FlowportError(f"{path} does not fit this run: {name} is no plain tensor of numbers")
        if state[name].is_floating_point() and not bool(state[name].isfinite().all()):
            raise FlowportError(f"{path} holds NaN or infinite weights in {name}: its training diverged")
        if state[name].shape != value.shape:
            raise FlowportError(
                f"{path} does not fit this run: {name} is {tuple(state[name].shape)} there and "
                f"{tuple(value.shape)} here"
            )
    more = next((name for name in state if name not in own), None)
    if more is not None:
        raise FlowportError(f"{path} does not fit this run: its weight {more} has no place here")


def _is_plain(value: torch.Tensor) -> bool:
    odd = value.is_nested or value.is_sparse or value.is_quantized or value.device.type != "cpu"
    return not odd and value.layout == torch.strided


def _is_moment(value: Any, parameter: torch.Tensor) -> bool:
    if isinstance(value, torch.Tensor):
        return _is_plain(value) and (value.ndim == 0 or value.shape == parameter.shape)
    return value is None or isinstance(value, int | float)


def check_resumable(checkpoint: Mapping[str, Any], path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Check that a checkpoint holds the state of its training.

    Args:
        checkpoint: What Lightning saved.
        path: Its file, for messages.
        optimizer: An optimiser of the run's parameters, which gets the state.

    Raises:
        FlowportError: Naming what is missing.
    """
    lost = [key for key in ("loops", "optimizer_states", "lr_schedulers", "global_step") if key not in checkpoint]
    if lost:
        raise FlowportError(f"{path} holds weights but no training to resume: it lacks {', '.join(lost)}")
    try:
        loop = checkpoint["loops"]["fit_loop"]
        counted = loop["epoch_loop.batch_progress"]["total"]["ready"], loop["epoch_progress"]["total"]["ready"]
        (state,) = checkpoint["optimizer_states"]
        optimizer.load_state_dict(state)
        if not all(isinstance(count, int) for count in (*counted, checkpoint["global_step"])):
            raise ValueError("a count of steps is no whole number")
        for group in optimizer.param_groups:
            for name, default in optimizer.defaults.items():
                if isinstance(default, int | float) and not isinstance(group[name], int | float | torch.Tensor):
                    raise ValueError(f"{name} of its optimiser is no number")
        fits = all(_is_moment(v, p) for p, moments in optimizer.state.items() for v in moments.values())
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise FlowportError(f"{path} does not hold the training of this run: {error!s:.100}") from None
    if not fits:
        raise FlowportError(f"{path} does not hold the training of this run: its optimiser is that of another network")
