"""The LightningModule that trains a flow on coupled pairs of points."""

from collections.abc import Callable, Iterable, Sequence
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
    """LightningModule that trains a flow from a source to a target with an objective, for instance flow matching.

    Args:
        source: The source.
        target: The target.
        field: The field to train.
        objective: The training objective.
        optimizer: Builds the optimiser, parameters -> Optimizer.
        scheduler: Builds the learning-rate scheduler, (optimizer, steps) -> LRScheduler; None for a constant rate.
        randomness: Randomness of the run.
        ema_decay: Decay of the exponential moving average of the weights.
    """

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
        step = self.global_step
        seed_network(self.draws.number("network", self.batches), self.device)  # dropout resumes exactly too
        loss = self.loss_of(pair, self.draws.number("objective", self.batches))
        self.note(step, loss)
        if logged(self.trainer, step + 1):
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(pair), sync_dist=True)
        self.batches += 1
        return loss

    def batch_loss(self, pair: Pair, generator: torch.Generator) -> Tensor:
        return self.objective.loss(self.field, pair, generator).mean

    def loss_parts(self) -> Sequence[object]:
        own = (getattr(self.objective, name, None) for name in ("time_sampler", "weighting"))
        return [*super().loss_parts(), self.objective, *own]

    def validation_step(self, pair: Pair, batch_idx: int) -> None:
        generator = self.randomness.generator("validation", batch_idx, self.device)
        loss = self.objective.loss(self.ema, pair, generator).mean
        self.log("val/loss", loss, batch_size=len(pair), sync_dist=True)
