"""Learning rate, norm of the gradient and facts of the coupling during training."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from flowport.training.guard import logged
from flowport.types import Pair


class StepLogger(Callback):
    """Callback that logs, every ``log_every_n_steps`` optimiser steps, what a training step does beside its loss.

    Logged are train/learning_rate, as the step uses it; train/gradient_norm, |∇L| over all trained parameters before
    clipping; coupling/pair_cost, the mean of |x0 − x1|² over the batch; and coupling/<fact>, the facts of the plan that
    the batch was drawn from, for which nothing is solved again. Other steps compute and read nothing.

    Lightning counts a step too many after some resumes, and would then log other steps than before, wrongly numbered:
    its count is set to that of the optimiser steps.
    """

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Pair, batch_idx: int) -> None:
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        if logged(trainer, trainer.global_step + 1):
            cost = (batch.source.x - batch.target.x).detach().float().square().sum() / len(batch)
            self._log(module, {f"coupling/{name}": value for name, value in {**batch.facts, "pair_cost": cost}.items()})

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        if logged(trainer, trainer.global_step + 1):
            groups = optimizer.param_groups
            gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
            rates = {f"train/learning_rate{k or ''}": group["lr"] for k, group in enumerate(groups)}
            self._log(module, {"train/gradient_norm": torch.nn.utils.get_total_norm(gradients), **rates})

    @staticmethod
    def _log(module: LightningModule, numbers: dict[str, Any]) -> None:
        for name, value in numbers.items():
            module.log(name, value.detach() if isinstance(value, Tensor) else float(value), batch_size=1)
