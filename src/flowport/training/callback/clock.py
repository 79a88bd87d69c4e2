"""Duration of training, summed over all parts of a run that was stopped and resumed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class TrainingClock(Callback):
    """Callback that measures the duration of training, without validation.

    The duration is part of a checkpoint. Of a part of the run that was interrupted, the time up to its last checkpoint
    counts.
    """

    def __init__(self) -> None:
        self.kept, self.steps = 0.0, 0
        self.began: float | None = None

    @property
    def seconds(self) -> float:
        """Duration of training so far, in seconds."""
        return self.kept + (0.0 if self.began is None else time.perf_counter() - self.began)

    @property
    def step_ms(self) -> float:
        """Mean duration of an optimiser step, in milliseconds."""
        return 1000 * self.seconds / max(1, self.steps)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps = trainer.global_step

    @contextmanager
    def paused(self, module: LightningModule) -> Iterator[None]:
        """A context whose duration is no part of the training.

        Args:
            module: Whose device may still be at work.
        """
        self._pause(module)
        try:
            yield
        finally:
            self.began = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._pause(module)

    def _pause(self, module: LightningModule) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)  # queued kernels are part of training
        self.kept, self.began = self.seconds, None

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._pause(module)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept, self.steps = float(state_dict["seconds"]), int(state_dict["steps"])
