"""Resumption of a finished training with more steps."""

from typing import Any

from lightning import Callback, LightningModule, Trainer


class ResumeFinished(Callback):
    """Callback that lets a finished training be resumed with more steps.

    The whole training is one epoch, and Lightning does not continue an epoch that ended. Therefore the progress in the
    checkpoint is changed to that of an unfinished epoch; the counts of batches and steps are unchanged.
    """

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        loop = checkpoint["loops"]["fit_loop"]
        loop["epoch_loop.batch_progress"]["is_last_batch"] = False
        for span in ("total", "current"):
            loop["epoch_progress"][span] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
