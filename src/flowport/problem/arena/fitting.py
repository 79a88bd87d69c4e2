"""Training that leaves nothing behind but weights."""

import logging
import warnings
from collections.abc import Callable

import lightning

from flowport.training.callback import TrainingClock


def fit(
    trainer: Callable[..., lightning.Trainer],
    module: lightning.LightningModule,
    data: lightning.LightningDataModule,
    steps: int,
) -> float:
    """Train for ``steps`` steps; returns the seconds they took."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    clock = TrainingClock()
    trainer(
        max_steps=steps,
        limit_train_batches=steps,
        limit_val_batches=0,
        max_epochs=1,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    ).fit(module, data)
    return clock.seconds
