"""Atomic checkpoints, which load as tensors only."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from flowport.errors import FlowportError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint writer and reader that never leaves an incomplete file.

    A checkpoint is written to a partial file beside it, flushed to disk and then renamed. Loading uses
    ``weights_only=True``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f"{path.stem}.partial-*"):  # of a process that was killed while it saved
            stale.unlink(missing_ok=True)
        partial = path.with_suffix(f".partial-{os.getpid()}")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return admitted(torch.load(path, map_location=map_location or "cpu", weights_only=True))


DEEPEST = 8
"""Deepest nesting of the states in a checkpoint."""
KEYS = (
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "replay",
    "replays",
)
"""Entries of a checkpoint that are resumed from as they are: tensors, counters and settings of optimisers."""

COUNTING = ("TrainingClock", "TuningWatch")
"""Callbacks whose states are counters alone."""


def admitted(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint that a resumed run may see: tensors, counters, the training clock and the watch.

    The states of other callbacks name files (``ModelCheckpoint.best_model_path``), which Lightning would delete.

    Args:
        checkpoint: As Lightning saved it.

    Raises:
        FlowportError: For a counter that is not a number.
    """
    found = {key: checkpoint[key] for key in KEYS if key in checkpoint}
    for key in ("optimizer_states", "lr_schedulers", "replay", "replays"):
        _check_depth(found.get(key), key)
    callbacks = checkpoint.get("callbacks")
    states = {name: callbacks.get(name) for name in COUNTING} if isinstance(callbacks, dict) else {}
    found["callbacks"] = {name: _counters(state) for name, state in states.items() if state is not None}
    if "loops" in checkpoint:
        found["loops"] = _counters(checkpoint["loops"])
    return found


def _check_depth(value: Any, key: str, depth: int = 0) -> None:
    """A dict that is shared by many others would take for ever to walk through; no state is as deep."""
    if depth > DEEPEST:
        raise FlowportError(f"this checkpoint is damaged: its {key} are nested more than {DEEPEST} levels deep")
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _check_depth(each, key, depth + 1)


def _counters(value: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise FlowportError(f"this checkpoint is damaged: its counters are nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        return {str(key): _counters(own, depth + 1) for key, own in value.items()}
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise FlowportError(f"this checkpoint is damaged: a counter of its training is {value!r:.60}")
    return value
