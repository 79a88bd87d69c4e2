"""The moving average's clock."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from flowport.module import FlowModule


class EMA(Callback):
    """Updates the module's ``ema`` once per optimiser step (not per accumulated batch); swaps nothing."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.seen = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:  # fmt: skip
        if trainer.global_step > self.seen:
            assert isinstance(module, FlowModule)
            module.update_ema()
            self.seen = trainer.global_step
