"""Stops a run whose loss or weights are not finite, before anything of it is saved."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from flowport.errors import Refusal
from flowport.module import FlowModule, logged

ADVICE = "lower the learning rate (optimizer.lr) or set trainer.gradient_clip_val; the last checkpoint is from before"


class Guard(Callback):
    """Reads the module's device-side flag at logging steps, and before every validation and checkpoint.

    Raises Refusal that names the first bad step; what was saved before stays as it is.
    """

    def _check(self, module: LightningModule) -> None:
        assert isinstance(module, FlowModule)
        step = int(module.flagged_step)
        if step >= 0:
            raise Refusal(f"the loss was not finite at training step {step}: {ADVICE} that step")

    def _check_all(self, module: LightningModule) -> None:
        """A finite loss can leave weights that are not: its gradient overflowed."""
        self._check(module)
        bad = next((name for name, p in module.named_parameters() if not bool(p.isfinite().all())), None)
        if bad is not None:
            raise Refusal(f"{bad} was not finite after training step {module.global_step - 1}: {ADVICE} that step")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:  # fmt: skip
        if logged(trainer, trainer.global_step):
            self._check(module)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._check_all(module)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_all(module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._check_all(module)
