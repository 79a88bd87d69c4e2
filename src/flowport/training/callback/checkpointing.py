"""When a training is saved: every so many steps, at its end, and when a signal stops it."""

import signal
import threading
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from flowport.errors import Stopped
from flowport.training import ranks

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that stop a training; SIGUSR1 and SIGUSR2 are left to clusters."""


class Checkpointing(Callback):
    """Saves every ``every`` optimiser steps, after the last one before anything is measured, and on a signal.

    On SIGTERM, SIGINT or SIGHUP it saves the last completed optimiser step and raises ``Stopped``. It never saves
    between the batches of one step, so that a resumed run equals an unbroken one also where gradients are accumulated.
    A signal to one of several processes stops all of them after the same step.

    Args:
        checkpoint: The file to save.
        every: Number of optimiser steps between two saves.
    """

    def __init__(self, checkpoint: Path, every: int) -> None:
        self.checkpoint, self.every, self.steps = checkpoint, every, 0
        self.received: int | None = None
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.steps, self.received = trainer.global_step, Stopped.received
        if threading.current_thread() is threading.main_thread():
            taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as by nohup
            self.handlers = {number: signal.signal(number, self._note) for number in taken}

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        completed, self.steps = trainer.global_step > self.steps, trainer.global_step
        last = self.steps == trainer.max_steps
        if completed and ranks.count() > 1:  # all processes save and stop after the same step
            self.received = ranks.largest(self.received or 0) or None
        if completed and (last or self.steps % self.every == 0 or self.received is not None):
            trainer.save_checkpoint(self.checkpoint)
            self.check()

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def check(self) -> None:
        """Stop where a signal has come; to be called once the last step is saved.

        Raises:
            Stopped: Naming the signal and the step.
        """
        if self.received is not None:
            folder = self.checkpoint.parent.parent
            raise Stopped(
                self.received, f"after step {self.steps}, which is saved: go on by flowport train run={folder}"
            )

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
