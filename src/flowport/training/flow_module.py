"""The LightningModule: a field and what it minimises. Its moving average and optimiser are ``AveragedModule``'s."""

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn

from flowport.distribution.base import Distribution
from flowport.field.base import Field
from flowport.objective import Objective
from flowport.randomness import Randomness, seed_network
from flowport.training.averaging import AveragedModule
from flowport.training.guard import logged
from flowport.types import Pair


class FlowModule(AveragedModule):
    """A flow from ``source`` to ``target``, learnt by an objective from re-paired points."""

    def __init__(
        self,
        source: Distribution,
        target: Distribution,
        field: Field,
        objective: Objective,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler] | None,
        randomness: Randomness,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(source, target, field, deepcopy(field).float(), optimizer, scheduler, randomness, ema_decay)
        self.objective = objective

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        step, device = self.global_step, self.device
        seed_network(self.draws.number("network", self.batches), device)  # dropout resumes exactly too
        generator = self.draws.generator("objective", self.batches, device)
        loss = self.objective.loss(self.field, pair, generator).mean
        self.note(step, loss)
        if logged(self.trainer, step + 1):
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(pair))
        self.batches += 1
        return loss

    def validation_step(self, pair: Pair, batch_idx: int) -> None:
        generator = self.randomness.generator("validation", batch_idx, self.device)
        loss = self.objective.loss(self.ema, pair, generator).mean
        self.log("val/loss", loss, batch_size=len(pair))
