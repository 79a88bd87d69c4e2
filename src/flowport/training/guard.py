"""Stops a run whose loss or weights are not finite, before anything of it is saved."""

from collections import deque
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from flowport.errors import FlowportError

KEPT = 10_000
"""Losses that may wait for a look."""
ADVICE = "lower the learning rate (optimizer.lr) or set trainer.gradient_clip_val; the last checkpoint is from before"


def logged(trainer: Trainer, steps: int) -> bool:
    """Whether Lightning's loggers write after so many optimiser steps."""
    return steps % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]


class GuardedModule(LightningModule):
    """A module whose training step notes its loss. Raises FlowportError that names the first bad step at logging
    steps and
    before every validation and checkpoint; what was saved before stays as it is.

    losses: (step, loss) since the last look, left on the device, so that no step waits for one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.losses: deque[tuple[int, Tensor]] = deque()

    def note(self, step: int, loss: Tensor) -> None:
        if len(self.losses) == KEPT:
            self.check_losses()
        self.losses.append((step, loss.detach()))

    def check_losses(self) -> None:
        if not self.losses:
            return
        bad = (~torch.stack([loss for _, loss in self.losses]).isfinite()).nonzero()
        if len(bad):
            step = self.losses[int(bad[0])][0]
            raise FlowportError(f"the loss was not finite at training step {step}: {ADVICE} that step")
        self.losses.clear()

    def check_all(self) -> None:
        """A finite loss can leave weights that are not: its gradient overflowed."""
        self.check_losses()
        bad = next((name for name, p in self.named_parameters() if not bool(p.isfinite().all())), None)
        if bad is not None:
            raise FlowportError(f"{bad} was not finite after training step {self.global_step - 1}: {ADVICE} that step")

    def on_fit_start(self) -> None:
        self.losses.clear()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if logged(self.trainer, self.global_step):
            self.check_losses()

    def on_validation_start(self) -> None:
        self.check_all()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_all()

    def on_train_end(self) -> None:
        self.check_all()
