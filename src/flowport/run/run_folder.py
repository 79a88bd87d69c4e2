"""A stranger's run folder runs no code: what may be instantiated from a config that was found, not written here."""

import contextlib
import importlib
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import lightning
import torch
import torchmetrics
from omegaconf import DictConfig, OmegaConf

from flowport import __version__
from flowport.errors import FlowportError

PACKAGES = ("flowport.", "torch.nn.", "torch.optim.", "lightning.Trainer", "torchmetrics.")
"""How the name of a part may begin."""

BASES = (
    torch.nn.Module,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    torchmetrics.Metric,
    lightning.LightningModule,
    lightning.LightningDataModule,
    lightning.Callback,
    lightning.Trainer,
)


def _is_part(found: object) -> bool:
    """Whether an object is a class of one of the known bases, or of a flowport family."""
    if not isinstance(found, type):
        return False
    return issubclass(found, BASES) or any(base.__module__.startswith("flowport.") for base in found.__mro__)


LAYOUT = 2
"""The layout of run folders, configs and checkpoints: raised where an older one can no longer be read."""
STAMP = "built_by.json"


def write_stamp(folder: Path) -> None:
    """Write what built a run into its folder: versions of flowport, its layout, Python and the main libraries, host."""
    built = {
        "flowport": __version__,
        "layout": LAYOUT,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "host": platform.node(),
    }
    written = folder / f".{STAMP}.{os.getpid()}"
    written.write_text(json.dumps(built, indent=2) + "\n")
    os.replace(written, folder / STAMP)


def check_stamp(folder: Path) -> None:
    """Raise FlowportError, naming both versions, for a run of another layout."""
    try:
        built = json.loads((folder / STAMP).read_text())
        layout, version = built["layout"], str(built["flowport"])
    except FileNotFoundError:
        layout, version = 1, "before 0.2.0"
    except (ValueError, KeyError, TypeError):
        raise FlowportError(f"{folder / STAMP} is damaged: it must hold the versions that built the run") from None
    if layout != LAYOUT:
        raise FlowportError(
            f"run={folder} was written by flowport {version}, whose run folders flowport {__version__} does not read: "
            "train it again, or use that version"
        )


def read_config(folder: Path) -> DictConfig:
    """The saved config of a run, checked. Raises FlowportError where it is missing, unreadable or asks for code."""
    path = folder / ".hydra" / "config.yaml"
    if not folder.is_dir():
        raise FlowportError(f"run={folder} is not a folder: give the folder that a training run wrote")
    if not path.is_file():
        raise FlowportError(f"run={folder} has no .hydra/config.yaml: give the folder that a training run wrote")
    check_stamp(folder)
    try:
        config = OmegaConf.load(path)
    except Exception as error:
        raise FlowportError(f"{path} is not a readable config: {str(error).splitlines()[0]}") from None
    if not isinstance(config, DictConfig):
        raise FlowportError(f"{path} is not a run's config")
    _check(OmegaConf.to_container(config, resolve=False), str(path), "")
    return config


def _check(node: Any, path: str, key: str) -> None:
    if isinstance(node, dict):
        if "_target_" in node:
            _check_target(node["_target_"], path, key)
        for name, value in node.items():
            _check(value, path, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            _check(value, path, f"{key}[{number}]")
    elif isinstance(node, str) and "${" in node and ":" in node[node.index("${") :]:
        raise FlowportError(
            f"{path} asks for a resolver at {key} ({node}): a restored run may only refer to its own keys"
        )


def _check_target(target: Any, path: str, key: str) -> None:
    """A restored ``_target_`` must be a class of a known base, in a package that may be imported: importing alone can
    run code (``idlelib.idle``, ``pip.__main__``), so nothing else is even looked at."""
    if not isinstance(target, str):
        raise FlowportError(f"{path} has no class name at {key}._target_: {target!r}")
    module, _, name = target.rpartition(".")
    own = {f"{name.strip()}." for name in os.environ.get("FLOWPORT_TRUST", "").split(",") if name.strip()}
    found = None
    if target.startswith((*PACKAGES, *own)) and "__main__" not in module:
        with contextlib.suppress(Exception):  # whatever a module raises when it is imported
            found = getattr(importlib.import_module(module), name)
    if not _is_part(found):
        raise FlowportError(
            f"{path} wants to build {target} at {key}, which is not a class of flowport, torch.nn, torch.optim or "
            "Lightning: a restored run may build nothing else, unless you trust its package (FLOWPORT_TRUST=package)"
        )


def read_weights(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint of a run as tensors only. Raises FlowportError where there is none or it is damaged."""
    path = folder / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise FlowportError(
            f"run={folder} has no checkpoint (checkpoints/last.ckpt): its training saved none, start it anew"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = re.split(r"[\n.:]", str(error).strip())[0][:100] or type(error).__name__
        raise FlowportError(
            f"{path} cannot be loaded as plain tensors ({reason}): it is half-written, damaged or holds code"
        ) from None
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise FlowportError(f"{path} is not a checkpoint of a flow: it has no state_dict of tensors")
    return path, checkpoint


def check_fits(module: torch.nn.Module, checkpoint: dict[str, Any], path: Path, resume: bool = False) -> None:
    """Raise FlowportError, naming the first difference, where weights are of another shape than the module; with
    ``resume`` also where the state of the training is missing."""
    state, own = checkpoint["state_dict"], module.state_dict()
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
    lost = [key for key in ("loops", "optimizer_states", "lr_schedulers", "global_step") if key not in checkpoint]
    if resume and lost:
        raise FlowportError(f"{path} holds weights but no training to resume: it lacks {', '.join(lost)}")
