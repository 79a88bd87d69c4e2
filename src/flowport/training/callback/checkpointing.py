"""When a training is saved: every so many steps or minutes, at its end, and when a signal stops it."""

import math
import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from flowport.errors import Stopped
from flowport.training import ranks

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""Signals that stop a training; SIGUSR2 is the one by which a cluster announces its time limit."""


class Checkpointing(Callback):
    """Saves every ``every`` optimiser steps, after the last one before anything is measured, and on a signal.

    On a signal of ``SIGNALS`` it saves the last completed optimiser step and raises ``Stopped``. It never saves
    between the batches of one step, so that a resumed run equals an unbroken one also where gradients are accumulated.
    Several processes save after the same step: where a signal came to one of them, or the minutes are over on one.

    Args:
        checkpoint: The file to save.
        every: Number of optimiser steps between two saves.
        minutes: Minutes after which it is saved in any case, counted from the last save; None: by steps alone.
    """

    def __init__(self, checkpoint: Path, every: int, minutes: float | None = None) -> None:
        self.checkpoint, self.every, self.steps = checkpoint, every, 0
        self.seconds, self.saved = math.inf if minutes is None else 60.0 * minutes, 0.0
        self.stopping = False
        self.received: int | None = None
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.steps, self.received, self.saved = trainer.global_step, Stopped.received, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as by nohup
            self.handlers = {number: signal.signal(number, self._note) for number in taken}

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.stopping:  # Lightning records a step and validates after the end of its batch
            self.check()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        completed, self.steps = trainer.global_step > self.steps, trainer.global_step
        if not completed:
            return
        due = time.monotonic() - self.saved >= self.seconds
        if ranks.count() > 1:  # all processes save and stop after the same step
            told = ranks.largest(2 * (self.received or 0) + due)
            self.received, due = told // 2 or None, bool(told % 2)
        if self.steps == trainer.max_steps or self.steps % self.every == 0 or due or self.received is not None:
            trainer.save_checkpoint(self.checkpoint)
            self.saved, self.stopping = time.monotonic(), self.received is not None

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
