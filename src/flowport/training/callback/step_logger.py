"""Learning rate, norm of the gradient and facts of the coupling during training."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

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
            groups = trainer.optimizers[0].param_groups  # schedulers change them before the end of the batch
            self._log(module, {f"train/learning_rate{k or ''}": group["lr"] for k, group in enumerate(groups)})

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Pair, batch_idx: int
    ) -> None:
        norm = getattr(module, "gradient_norm", None)
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if norm is not None and stepped and logged(trainer, trainer.global_step):
            self._log(module, {"train/gradient_norm": norm})

    @staticmethod
    def _log(module: LightningModule, numbers: dict[str, Any]) -> None:
        for name, value in numbers.items():
            number = value.detach() if isinstance(value, Tensor) else float(value)
            module.log(name, number, on_step=True, batch_size=1, sync_dist=True)  # the mean over processes
