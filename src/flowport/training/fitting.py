"""Training in memory: Lightning's Trainer without loggers, checkpoints or any other file."""

import logging
import warnings
from collections.abc import Callable

import lightning
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from flowport.tensors import float32_products
from flowport.training.callback import TrainingClock


def train_in_memory(
    trainer: Callable[..., lightning.Trainer],
    module: lightning.LightningModule,
    data: lightning.LightningDataModule,
    steps: int,
    progress: bool = False,
) -> float:
    """Train a module for a number of optimiser steps; on CUDA products of float32 are rounded to TF32.

    Args:
        trainer: Lightning's Trainer, or a partial of it with its accelerator and precision.
        module: The module to train.
        data: The data of the module.
        steps: Number of optimiser steps.
        progress: Whether a progress bar is shown.

    Returns:
        The duration of the training in seconds.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    clock = TrainingClock()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        made = trainer(
            max_steps=steps,
            limit_train_batches=steps,
            limit_val_batches=0,
            max_epochs=1,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            plugins=[LightningEnvironment()],  # one process, also inside a job of a cluster
        )
        with float32_products(tf32=made.strategy.root_device.type == "cuda"):
            made.fit(module, data)
    return clock.seconds
