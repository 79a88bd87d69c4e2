"""Networks that are trained once and kept on disk, under a name that is a hash of all that made them."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Kept = TypeVar("Kept", bound=nn.Module)
Facts = dict[str, float]


@dataclass(frozen=True)
class TrainingSettings:
    """How a kept network is trained; a part of its hash. AdamW with a one-cycle rate up to ``rate``.

    decay: of weights; batch: items of a step; noise: of the standard deviation with which the training adds its noise.
    """

    rate: float
    decay: float
    version: int = 1
    seed: int = 20_240_607
    steps: int = 1000
    batch: int = 64
    noise: float = 0.1


def home() -> Path:
    """The folder of all caches: ``FLOWPORT_HOME``, else ``data/`` of the checkout, else the user's cache folder."""
    if os.environ.get("FLOWPORT_HOME"):
        return Path(os.environ["FLOWPORT_HOME"]).expanduser().absolute()
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs").is_dir():
        return checkout / "data"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowport"


def optimised(model: Kept, recipe: TrainingSettings, title: str, loss: Callable[[], Tensor]) -> Kept:
    """The model in evaluation mode after ``recipe.steps`` steps down ``loss``, which draws its batch anew at each."""
    optimizer = torch.optim.AdamW(model.train().parameters(), recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.steps)
    console = Console(stderr=True)
    for _ in track(range(recipe.steps), title, console=console, transient=True, disable=not console.is_terminal):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def load_or_train(untrained: Kept, path: Path, train: Callable[[], tuple[Kept, Facts]]) -> tuple[Kept, Facts]:
    """The network in ``path`` (.safetensors) and what is known of it; where there is none, or a damaged one, ``train``
    makes it and it is kept. untrained: of the same shape, filled in place.

    Returns it frozen, in evaluation mode. Safe where several processes ask at once: one trains, the others wait and
    load.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        model, facts = untrained, _loaded(untrained, path)
        if facts is None:
            model, facts = train()
            _keep(model, facts, path)
    return model.eval().requires_grad_(False), facts


def _digest(weights: dict[str, Tensor]) -> str:
    """A checksum of weights: safetensors itself does not notice a flipped bit."""
    digest = blake2b(digest_size=8)
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _keep(model: nn.Module, facts: Facts, path: Path) -> None:
    """Written beside and moved into place, so that no reader ever sees half a file."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    written = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(weights, written, metadata={"facts": json.dumps(facts), "digest": _digest(weights)})
    os.replace(written, path)


def _loaded(model: nn.Module, path: Path) -> Facts | None:
    """Fill the model from the file and return what is known of it; None where there is no file or it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if told["digest"] != _digest(weights):
            return None
        model.load_state_dict(weights)
        return {name: float(value) for name, value in json.loads(told["facts"]).items()}
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None
