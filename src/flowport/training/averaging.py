"""Base of the LightningModules that train a field, with an exponential moving average of its weights.

References:
    Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging", doi:10.1137/0330046.
"""

import logging
from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.randomness import Randomness
from flowport.training.captured_module import CapturedModule
from flowport.training.compilation import compile_networks

logger = logging.getLogger(__name__)


def _comparable(value: Any) -> Any:
    """Betas may be a list in a config and a tuple in a checkpoint."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


class AveragedModule(CapturedModule, ABC):
    """LightningModule that trains a field and its exponential moving average, between a source and a target.

    After optimiser step k,

        ema ← d_k ema + (1 − d_k) field,     d_k = min(d, (1 + k)/(10 + k)).

    The average is in float32 and is what callbacks, translation and evaluation use; it is never optimised and never
    swapped with the field. All random numbers of a training batch depend on the number of the batch only, so a resumed
    run equals an uninterrupted one. A member provides ``training_step`` and ``validation_step``.

    Args:
        source: The source.
        target: The target.
        field: The field to train.
        ema: A copy of the field in float32, which becomes its average.
        optimizer: Builds the optimiser, parameters -> Optimizer.
        scheduler: Builds the learning-rate scheduler, (optimizer, steps) -> LRScheduler, stepped after every optimiser
            step; None for a constant rate.
        randomness: Randomness of the run.
        ema_decay: d, in [0, 1).

    Attributes:
        batches: Number of training batches so far.
        draws: Randomness of this process.
        split: Whether each process holds a part of the weights only.
        codec: Encoder and decoder of a target in latent space, so that checkpoints contain them; None otherwise.

    Raises:
        FlowportError: For an ``ema_decay`` outside [0, 1).
    """

    def __init__(
        self,
        source: Distribution,
        target: Distribution,
        field: Field,
        ema: Field,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler] | None,
        randomness: Randomness,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__()
        if not 0 <= ema_decay < 1:
            raise FlowportError(f"ema_decay={ema_decay} must be in [0, 1): at 1 the average would never move")
        self.source, self.target = source, target
        self.field: Field = field
        self.ema: Field = ema.requires_grad_(False).eval()
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.randomness, self.ema_decay = randomness, ema_decay
        self.split = False
        self.codec = target.modality.codec()  # in a latent space, a part of the flow's weights

    def configure_model(self) -> None:
        """Split the weights and their average over the processes where the strategy asks for it (``trainer=fsdp``)."""
        if self.device_mesh is None or self.split:
            return
        from flowport.training.sharding import shard

        for flow in (self.field, self.ema):
            shard(flow, self.device_mesh["data_parallel"])
        self.split = True

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.device.type == "cuda" and len(self.source.event_shape) == 3 and self.device_mesh is None:
            # cuDNN's convolutions in half precision are fastest with channels last.
            for flow in (self.field, self.ema):
                flow.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        compile_networks(self.field, self.device)

    def _apply_settings(self) -> None:
        """Give a resumed optimiser the options of the config, where a checkpoint has restored others.

        Only under schedulers that multiply the rate: others, such as OneCycleLR, set rates and betas themselves.
        """
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs] if self._settings else []
        if not all(isinstance(scheduler, LambdaLR) for scheduler in schedulers):
            logger.info("the optimiser keeps the options of the checkpoint, which its scheduler may have set")
            return
        for optimizer in self.trainer.optimizers if self._settings else []:
            for k, (group, wanted) in enumerate(zip(optimizer.param_groups, self._settings, strict=True)):
                base = group.get("initial_lr", group["lr"])
                if wanted["lr"] != base:  # the schedule's factor of this step stays
                    group["lr"] = group["lr"] * (wanted["lr"] / base) if base else wanted["lr"]
                    for scheduler in schedulers:
                        group["initial_lr"] = scheduler.base_lrs[k] = wanted["lr"]
                    logger.info("optimizer.lr is %g from here on, not %g", wanted["lr"], base)
                for name, value in wanted.items():
                    if name != "lr" and _comparable(group.get(name)) != _comparable(value):
                        logger.info("optimizer.%s is %s from here on, not %s", name, value, group.get(name))
                        group[name] = value

    def on_train_start(self) -> None:
        self._apply_settings()
        self.draws = self.randomness.on(self.global_rank)
        self.batches = self.global_step * self.trainer.accumulate_grad_batches
        self.__dict__.pop("_averaged", None)  # a move to a device since the last training made new buffers
        super().on_train_start()

    def rest(self, step: int) -> float:
        """1 − d_k.

        Args:
            step: Number k of the optimiser step, from 1.
        """
        return 1 - min(self.ema_decay, (1 + step) / (10 + step))

    def average(self, rest: Tensor | float) -> None:
        """ema ← ema + rest (field − ema).

        Args:
            rest: Share 1 − d of the new weights: a number, for which one operation suffices, or a tensor () whose value
                a graph reads at every replay, by three; they round differently.
        """
        average, current, buffers = self._averaged
        weights = [p.float() for p in current]
        with torch.no_grad():
            if isinstance(rest, float):
                torch._foreach_lerp_(average, weights, rest)
            else:
                change = torch._foreach_sub(weights, average)
                torch._foreach_mul_(change, rest)
                torch._foreach_add_(average, change)
            for copied, buffer in buffers:
                copied.copy_(buffer)

    @cached_property
    def _averaged(self) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Parameters of ema, those of field, and pairs of buffers, cached since collecting them is slow."""
        buffers = zip(self.ema.buffers(), self.field.buffers(), strict=True)
        both = zip(self.ema.parameters(), self.field.parameters(), strict=True)
        trainable = [(average, own) for average, own in both if own.requires_grad]
        return [average for average, _ in trainable], [own for _, own in trainable], list(buffers)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(p for p in self.field.parameters() if p.requires_grad)
        self._settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
