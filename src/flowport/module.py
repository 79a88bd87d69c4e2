"""The LightningModule: a field, what it minimises, and its moving average. Nothing else lives here."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from flowport.distribution.base import Distribution
from flowport.field.base import Field
from flowport.guard import Guarded, logged
from flowport.objective import Objective
from flowport.randomness import Randomness, seed_network
from flowport.shapes import Pair


class FlowModule(Guarded):
    """A flow from ``source`` to ``target``.

    field: trained; ema: its exponential moving average in float32, never optimised and never swapped; callbacks,
    translation and evaluation read it. ema_decay d: after optimiser step k, ema ← d_k ema + (1 − d_k) field with
    d_k = min(d, (1+k)/(10+k)). batches: training batches seen; all that is drawn for a batch depends on its number
    alone, so a resumed run equals an unbroken one.
    optimizer: parameters -> Optimizer; scheduler: (optimizer, steps) -> LRScheduler, stepped every
    optimiser step, or None.
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
        super().__init__()
        self.source, self.target = source, target
        self.field, self.objective = field, objective
        self.ema: Field = deepcopy(field).float().requires_grad_(False).eval()
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.randomness, self.ema_decay = randomness, ema_decay
        self.codec = target.modality.codec()  # a part of the flow's weights, where it lives among latents

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.device.type == "cuda" and len(self.source.event_shape) == 3:
            # cuDNN's convolutions in half precision want the channels beside each other.
            for flow in (self.field, self.ema):
                flow.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def on_train_start(self) -> None:
        self.draws = self.randomness.on(self.global_rank)
        self.batches = self.global_step * self.trainer.accumulate_grad_batches
        self.__dict__.pop("_averaged", None)  # a move to a device since the last training made new buffers

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

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_ema(self.global_step + 1)  # Lightning counts this step only after the hook

    def update_ema(self, step: int) -> None:
        """The moving average's share of optimiser step ``step`` (from 1)."""
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        average, current, buffers = self._averaged
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.float() for p in current], 1 - decay)
            for kept, buffer in buffers:
                kept.copy_(buffer)

    @cached_property
    def _averaged(self) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Parameters of ema and of field, buffers of both: walking a small network costs more than averaging it."""
        buffers = zip(self.ema.buffers(), self.field.buffers(), strict=True)
        return list(self.ema.parameters()), list(self.field.parameters()), list(buffers)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.field.parameters())
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
