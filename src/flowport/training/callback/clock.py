"""How long training took, over all the parts of a run that was stopped and resumed."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class TrainingClock(Callback):
    """Seconds of training without validation, up to the last checkpoint of every part and the end of the last.

    seconds: so far; it travels in the checkpoint. step_ms: the mean optimiser step in milliseconds.
    """

    def __init__(self) -> None:
        self.kept, self.steps = 0.0, 0
        self.began: float | None = None

    @property
    def seconds(self) -> float:
        return self.kept + (0.0 if self.began is None else time.perf_counter() - self.began)

    @property
    def step_ms(self) -> float:
        return 1000 * self.seconds / max(1, self.steps)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps = trainer.global_step

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)  # what was queued belongs to training
        self.kept, self.began = self.seconds, None

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.kept, self.began = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept, self.steps = float(state_dict["seconds"]), int(state_dict["steps"])
