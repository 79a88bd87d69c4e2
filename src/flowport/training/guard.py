"""Base of the LightningModules that stop with an error where a loss or a weight is not finite."""

from collections import deque
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from flowport.errors import FlowportError
from flowport.training import ranks

KEPT = 10_000
"""Maximal number of losses that are stored before they are checked."""
ADVICE = "lower the learning rate (optimizer.lr) or set trainer.gradient_clip_val; the last checkpoint is from before"


def logged(trainer: Trainer, steps: int) -> bool:
    """Whether Lightning's loggers write after a number of optimiser steps.

    Args:
        trainer: The trainer, with its logging interval.
        steps: Number of optimiser steps so far.
    """
    return steps % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]


class GuardedModule(LightningModule):
    """LightningModule that checks its losses and weights before anything is saved.

    The training step of a member must call ``note`` with its loss. Losses are checked at logging steps, losses and
    weights before every validation and checkpoint and at the end of training. Earlier checkpoints are unchanged. Of
    several processes all stop with the same error where one of them would.

    Attributes:
        losses: (step, loss) since the last check, on the device of the losses, so that no step synchronises with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.losses: deque[tuple[int, Tensor]] = deque()

    def note(self, step: int, loss: Tensor) -> None:
        """Store a loss for the next check.

        Args:
            step: Number of the optimiser step.
            loss: The loss, ().
        """
        if len(self.losses) == KEPT:
            self.check_losses()
        self.losses.append((step, loss.detach()))

    def check_losses(self) -> None:
        """Check all stored losses, and forget them.

        Raises:
            FlowportError: Where a loss is not finite; it names the first such step.
        """
        if not self.losses:
            return
        bad = (~torch.stack([loss for _, loss in self.losses]).isfinite()).nonzero()
        step = ranks.least(self.losses[int(bad[0])][0] if len(bad) else ranks.NEVER)
        if step != ranks.NEVER:
            raise FlowportError(f"the loss was not finite at training step {step}: {ADVICE} that step")
        self.losses.clear()

    def check_all(self) -> None:
        """Check all stored losses and all weights, since the gradient of a finite loss can overflow.

        Raises:
            FlowportError: Where a loss or a weight is not finite.
        """
        self.check_losses()
        weights = list(self.named_parameters())
        bad = next((k for k, (_, p) in enumerate(weights) if not bool(ranks.local(p).isfinite().all())), ranks.NEVER)
        bad = ranks.least(bad)
        if bad != ranks.NEVER:
            raise FlowportError(
                f"{weights[bad][0]} was not finite after training step {self.global_step - 1}: {ADVICE} that step"
            )

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
