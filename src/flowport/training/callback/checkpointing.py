"""When a training is saved: every so many steps or minutes, at its end, and when a signal stops it."""

import math
import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from flowport.errors import Stopped
from flowport.training import ranks

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""Signals that stop a training; SIGUSR2 is the one by which a cluster announces its time limit."""


class Checkpointing(Callback):
    """Saves every ``every`` optimiser steps, after the last one before the test split is measured, and on a signal.

    On a signal of ``SIGNALS`` it saves the last completed optimiser step and raises ``Stopped``. It never saves
    between the batches of one step, so that a resumed run equals an unbroken one also where gradients are accumulated.
    Several processes save after the same step: where a signal came to one of them, or the minutes are over on one.

    Lightning records the numbers of a step, and validates, after the hook in which its state is saved: a process that
    was killed in between would lack them, since its run goes on with the next step. Therefore the file is ``pending``
    until the next step begins or the training ends, and only then replaces the checkpoint. Where anything fails in the
    first process before, or a signal reaches it before a validation has ended, it does so at once: a training is worth
    more than the numbers of one validation.

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
        self.waits = self.recorded = False
        self.copies = set[Path]()

    @property
    def pending(self) -> Path:
        """The file of a step whose numbers are not all recorded."""
        return self.checkpoint.with_suffix(".pending")

    def save(self, trainer: Trainer, copy: Path | None = None) -> None:
        """Save the last completed step, in all processes; the checkpoint is replaced once its numbers are recorded.

        Args:
            trainer: The trainer.
            copy: A second name that the checkpoint also gets then; None for none.
        """
        trainer.save_checkpoint(self.pending)
        self.waits, self.recorded = trainer.is_global_zero, False
        self.copies |= {copy} if copy else set()

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            self.pending.unlink(missing_ok=True)  # of a process that was killed

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.steps, self.received, self.saved = trainer.global_step, Stopped.received, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as by nohup
            self.handlers = {number: signal.signal(number, self._note) for number in taken}

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._finish(trainer)
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
            self.save(trainer)
            self.saved, self.stopping = time.monotonic(), self.received is not None

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.waits:
            self._flush(trainer)  # here, since a handler of signals must not wait for a logger
        self.recorded = True
        if self.received is not None:
            self._replace()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        with suppress(OSError):  # the first failure is the one to tell
            self._replace()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._finish(trainer)

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
        if self.recorded:
            self._replace()

    def _finish(self, trainer: Trainer) -> None:
        """Replace the checkpoint, once the loggers have written all that they were told."""
        if self.waits:
            self._flush(trainer)
            self._replace()

    @staticmethod
    def _flush(trainer: Trainer) -> None:
        for log in trainer.loggers:
            log.save()

    def _replace(self) -> None:
        waits, self.waits = self.waits, False  # first, since a signal may come meanwhile
        copies, self.copies = self.copies, set()
        if waits:
            os.replace(self.pending, self.checkpoint)
            for copy in copies:
                same_file(self.checkpoint, copy)


def same_file(file: Path, other: Path) -> None:
    """Make one file the content of another name, atomically; without a copy where the file system has hard links.

    The files are only ever replaced whole, so that neither changes with the other.

    Args:
        file: The file.
        other: Its second name.
    """
    partial = other.with_suffix(f".partial-{os.getpid()}")
    partial.unlink(missing_ok=True)
    try:
        os.link(file, partial)
    except OSError:
        shutil.copyfile(file, partial)
    os.replace(partial, other)
