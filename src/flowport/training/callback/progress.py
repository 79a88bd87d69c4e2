"""The progress bar, and lines on the progress for a log."""

import json
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from flowport.cache import write_atomically
from flowport.training.guard import logged

logger = logging.getLogger(__name__)
SECONDS = 60.0
"""Time between two lines of a log."""
NOTED = 2.0
"""Time between two notes in the file of the progress."""


class ProgressLog(Callback):
    """Callback that logs the step, the loss and the time left once a minute, also where there is no terminal.

    Args:
        path: File that holds the step, the last step and the mean seconds of a step while the training runs, for those
            who watch it; None for none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = self.told = self.noted = time.monotonic()
        self.first = trainer.global_step
        self.on_train_end(trainer, pl_module)  # of a process that was killed

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now, done = time.monotonic(), trainer.global_step - self.first
        if self.path is not None and done and now - self.noted >= NOTED:
            self.noted = now
            facts = {"step": trainer.global_step, "steps": trainer.max_steps, "step_seconds": (now - self.began) / done}
            with suppress(OSError):  # a full disk
                write_atomically(self.path, lambda place: place.write_text(json.dumps(facts)))
        if now - self.told < SECONDS or done == 0:
            return
        self.told = now
        minutes = (now - self.began) / done * (trainer.max_steps - trainer.global_step) / 60
        loss = trainer.callback_metrics.get("train/loss")  # of the last logged step
        known = "" if loss is None else f", loss {float(loss):.4g}"
        logger.info("step %d of %d%s, about %.1f min left", trainer.global_step, trainer.max_steps, known, minutes)


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar without the version number.

    Args:
        refresh: Number of steps between two updates.
    """

    def __init__(self, refresh: int = 20) -> None:
        super().__init__(refresh_rate=refresh)

    def _update_metrics(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if logged(trainer, trainer.global_step):  # each number shown is read from the device, which then waits
            super()._update_metrics(trainer, pl_module)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
