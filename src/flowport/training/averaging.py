"""What every training of a field has: a moving average, an optimiser, and randomness by the number of the batch."""

from abc import ABC
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from flowport.distribution.base import Distribution
from flowport.field.base import Field
from flowport.randomness import Randomness
from flowport.training.guard import GuardedModule


class AveragedModule(GuardedModule, ABC):
    """A field in training and its moving average, between ``source`` and ``target``.

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
        ema: Field,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler] | None,
        randomness: Randomness,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__()
        self.source, self.target = source, target
        self.field = field
        self.ema: Field = ema.requires_grad_(False).eval()
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
        both = zip(self.ema.parameters(), self.field.parameters(), strict=True)
        learnt = [(average, own) for average, own in both if own.requires_grad]
        return [average for average, _ in learnt], [own for _, own in learnt], list(buffers)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(p for p in self.field.parameters() if p.requires_grad)
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
