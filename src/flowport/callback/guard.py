"""Stops a run whose loss is not finite, before anything of it is saved."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from flowport.errors import Refusal
from flowport.module import FlowModule, logs_now


class Guard(Callback):
    """Reads the module's device-side flag at logging steps and before every checkpoint.

    Raises Refusal that names the first bad step; what was saved before stays as it is.
    """

    def _check(self, module: LightningModule) -> None:
        assert isinstance(module, FlowModule)
        step = int(module.flagged_step)
        if step >= 0:
            raise Refusal(
                f"the loss was not finite at training step {step}: lower the learning rate (optimizer.lr) or set "
                "trainer.gradient_clip_val; the last checkpoint is from before that step"
            )

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:  # fmt: skip
        if logs_now(trainer):
            self._check(module)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._check(module)
