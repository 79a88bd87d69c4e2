"""The progress bar, and lines on the progress for a log."""

import logging
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from flowport.training.guard import logged

logger = logging.getLogger(__name__)
SECONDS = 60.0
"""Time between two lines of a log."""


class ProgressLog(Callback):
    """Callback that logs the step, the loss and the time left once a minute, also where there is no terminal."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = self.told = time.monotonic()
        self.first = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now, done = time.monotonic(), trainer.global_step - self.first
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
