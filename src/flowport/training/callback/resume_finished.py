"""A finished training can be resumed with more steps."""

from typing import Any

from lightning import Callback, LightningModule, Trainer


class ResumeFinished(Callback):
    """One epoch is the whole training, and Lightning would not go on in an epoch that ended: the restored loop is
    told that it did not end. Batches and steps that are done stay done."""

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        loop = checkpoint["loops"]["fit_loop"]
        loop["epoch_loop.batch_progress"]["is_last_batch"] = False
        for span in ("total", "current"):
            loop["epoch_progress"][span] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
