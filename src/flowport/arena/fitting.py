"""Training that leaves nothing behind but weights."""

import logging
import warnings
from collections.abc import Callable

import lightning

from flowport.callback import Clock


def fit(trainer: Callable[..., lightning.Trainer], module: lightning.LightningModule,
        data: lightning.LightningDataModule, steps: int) -> float:  # fmt: skip
    """Train for ``steps`` steps; returns the seconds they took."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    clock = Clock()
    trainer(
        max_steps=steps, limit_train_batches=steps, limit_val_batches=0, max_epochs=1, callbacks=[clock], logger=False,
        enable_checkpointing=False, enable_progress_bar=False,
    ).fit(module, data)  # fmt: skip
    return clock.seconds
