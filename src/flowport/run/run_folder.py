"""The folder of a run: the only place that names its files, reads them safely and writes them atomically."""

import json
import platform
import re
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from flowport import __version__
from flowport.cache import write_atomically
from flowport.errors import FlowportError
from flowport.run.trust import check_config

LAYOUT = 3
"""The layout of run folders, configs and checkpoints: raised where an older one can no longer be read."""
LARGEST_CONFIG = 2**20
"""Size of the largest config that is read, in bytes."""


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
        """All numbers of a finished run: its presence says that the run is finished."""
        return self.path / "metrics.json"

    @property
    def before(self) -> Path:
        """Numbers measured before training, which a resumed run reports again."""
        return self.path / "before.json"

    @property
    def gallery(self) -> Path:
        """The picture of sources, translations and targets."""
        return self.path / "gallery.png"

    @property
    def translation(self) -> Path:
        """The row of translations alone."""
        return self.path / "translation.png"

    @property
    def before_after(self) -> Path:
        """The picture of the same starts through the base and the fine-tuned flow."""
        return self.path / "before_after.png"

    @property
    def pairs(self) -> Path:
        """Stored pairs of source and target points, for ``pairing=stored``."""
        return self.path / "pairs.safetensors"

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
        """Whether the run has written its numbers."""
        return self.metrics.is_file()

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
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise FlowportError(
                f"run={self} is being written by another process: wait for it, or give another folder"
            ) from None
        try:
            yield self
        finally:
            (self.path / ".lock").unlink(missing_ok=True)
            lock.release()

    def check_links(self) -> None:
        """Check that nothing in the folder is a symbolic link, through which a command would write elsewhere.

        Raises:
            FlowportError: Naming the first link.
        """
        if not self.path.is_dir():
            return
        folders = [self.path, *(self.path / name for name in (".hydra", "checkpoints", "tensorboard", "gallery"))]
        for folder in folders:
            for entry in folder.iterdir() if folder.is_dir() else ():
                if entry.is_symlink():
                    raise FlowportError(f"{entry} is a symbolic link: a run is written into real files and folders")

    def overrides(self) -> dict[str, str]:
        """The overrides of a job of a sweep, key to value, as Hydra wrote them."""
        words = OmegaConf.to_container(load_yaml(self.path / ".hydra" / "overrides.yaml"))
        assert isinstance(words, list)
        return dict(str(word).lstrip("+").split("=", 1) for word in words)

    def read_config(self) -> DictConfig:
        """The run's config.

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
        except Exception as error:
            raise FlowportError(f"{self.config} is not a readable config: {str(error).splitlines()[0]}") from None
        if not isinstance(config, DictConfig):
            raise FlowportError(f"{self.config} is not a run's config")
        if not self.trust:
            check_config(OmegaConf.to_container(config, resolve=False), str(self.config))
            check_config(OmegaConf.to_container(config, resolve=True), str(self.config))  # of interpolated paths
        return config

    def write_config(self, config: DictConfig) -> None:
        """Write the config and the stamp of what built the run.

        Args:
            config: The composed config, with what was measured.
        """
        write_atomically(self.config, lambda path: OmegaConf.save(config, path))
        write_json(self.stamp, built_by())

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
        """All numbers of a finished run."""
        return json.loads(self.metrics.read_text())

    def write_metrics(self, numbers: Mapping[str, Any]) -> None:
        """Write the numbers of the run, which finishes it.

        Args:
            numbers: Name to number.
        """
        write_json(self.metrics, numbers)

    def read_before(self) -> dict[str, Any]:
        """What was measured before training; empty where nothing was."""
        return json.loads(self.before.read_text()) if self.before.is_file() else {}

    def _check_stamp(self) -> None:
        """Raise FlowportError where an older or newer layout wrote the folder."""
        try:
            built = json.loads(self.stamp.read_text())
            layout, version = built["layout"], str(built["flowport"])
        except FileNotFoundError:
            layout, version = 1, "before 0.2.0"
        except (ValueError, KeyError, TypeError):
            raise FlowportError(f"{self.stamp} is damaged: it must hold the versions that built the run") from None
        if layout != LAYOUT:
            raise FlowportError(
                f"run={self} was written by flowport {version}, whose run folders flowport {__version__} does not "
                "read: train it again, or use that version"
            )


def load_yaml(path: Path) -> Any:
    """A config file, of bounded size and without aliases, by which a few lines could stand for gigabytes.

    Args:
        path: The file.

    Raises:
        FlowportError: For a file that is too large or has aliases.
    """
    if path.stat().st_size > LARGEST_CONFIG:
        raise FlowportError(f"{path} has {path.stat().st_size} bytes: a config has at most {LARGEST_CONFIG}")
    with path.open() as file:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(file, yaml.CSafeLoader)):
            raise FlowportError(f"{path} has YAML aliases (*name): a config is written without them")
    return OmegaConf.load(path)


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
        "lightning": lightning.__version__,
        "host": platform.node(),
    }


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
        if state[name].shape != value.shape:
            raise FlowportError(
                f"{path} does not fit this run: {name} is {tuple(state[name].shape)} there and "
                f"{tuple(value.shape)} here"
            )
    more = next((name for name in state if name not in own), None)
    if more is not None:
        raise FlowportError(f"{path} does not fit this run: its weight {more} has no place here")


def check_resumable(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Check that a checkpoint holds the state of its training.

    Args:
        checkpoint: What Lightning saved.
        path: Its file, for messages.

    Raises:
        FlowportError: Naming what is missing.
    """
    lost = [key for key in ("loops", "optimizer_states", "lr_schedulers", "global_step") if key not in checkpoint]
    if lost:
        raise FlowportError(f"{path} holds weights but no training to resume: it lacks {', '.join(lost)}")
