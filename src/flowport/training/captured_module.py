"""Base of the LightningModules whose training step CUDA replays as one graph."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from flowport.field.base import Field
from flowport.network.recording import GraphRecording, Recording
from flowport.training import ranks
from flowport.training.capture_obstacles import obstacle_of
from flowport.training.captured_step import CapturedStep
from flowport.training.device_optimizer import make_portable, match_layout, use_fused
from flowport.training.guard import GuardedModule, logged
from flowport.types import Pair

logger = logging.getLogger(__name__)
UNCAPTURED = "the training step is not captured in a CUDA graph: {}"


class CapturedModule(GuardedModule, ABC):
    """LightningModule whose training step is one CUDA graph where that is possible, within automatic optimisation.

    A replayed step computes the loss, its gradient, clipping, the optimiser and the average at once, when Lightning
    asks for the loss; the hooks that Lightning calls next do nothing then. Without a graph the same operations run one
    by one, with the same result up to differences of the kernels.

    A member provides ``field``, ``ema``, ``batch_loss``, ``average`` and ``rest``, and its ``training_step`` calls
    ``loss_of``.

    Attributes:
        capture: Whether to capture the step on CUDA, where that is possible.
        captured: The recorded training step; None where each step is computed anew.
        gradient_norm: |∇L| over all trained parameters before clipping, (), of the last optimiser step for which it was
            computed.
        recording: Makes a Recording on any device; None: CUDA graphs, on CUDA only.
    """

    field: Field
    ema: Field
    capture: bool = True
    recording: Callable[..., Recording] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.captured: CapturedStep | None = None
        self.gradient_norm: Tensor | None = None
        self._may_capture = False
        self._settings: list[dict[str, Any]] = []  # of the optimiser, by the config

    @abstractmethod
    def average(self, rest: Tensor | float) -> None:
        """Update the moving average of the weights.

        Args:
            rest: Share of the new weights: a number, or a tensor () whose value a graph reads at every replay.
        """

    @abstractmethod
    def rest(self, step: int) -> float:
        """Share of the new weights in the moving average after an optimiser step.

        Args:
            step: Number of the step, from 1.
        """

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            match_layout(optimizer)
            if self._scaler is None:
                use_fused(optimizer)
        self.captured, self.gradient_norm, self._may_capture = None, None, self._wants_capture()

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """What scales the loss under 16-mixed; None under other precisions."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _wants_capture(self) -> bool:
        if not self.capture or (self.recording is None and self.device.type != "cuda"):
            return False
        reason = obstacle_of(self, CapturedModule, self.loss_parts())
        logger.info("%s", "the training step is one CUDA graph" if reason is None else UNCAPTURED.format(reason))
        return reason is None

    def on_train_batch_start(self, batch: Pair, batch_idx: int) -> None:
        if self.captured is None and self._may_capture:
            optimizer = self.trainer.optimizers[0]
            self.captured = CapturedStep(
                self.batch_loss,
                partial(self._finish, optimizer),
                [self.field, self.ema, *(part for part in self.loss_parts() if isinstance(part, nn.Module))],
                optimizer,
                batch,
                self.trainer.accumulate_grad_batches,
                self._autocast(),
                self.recording or GraphRecording,
            )
        elif self.captured is not None:
            reason = self.captured.obstacle(batch, self.trainer.accumulate_grad_batches)
            if reason is not None:
                logger.info("%s", UNCAPTURED.format(reason))
                self.captured, self._may_capture = None, False

    def _autocast(self) -> torch.dtype | None:
        """Data type of the trainer's autocast; None for none."""
        with self.trainer.precision_plugin.train_step_context():
            on = torch.is_autocast_enabled(self.device.type)
            return torch.get_autocast_dtype(self.device.type) if on else None

    def loss_of(self, pair: Pair, seed: int) -> Tensor:
        """The loss of a training batch, (); its gradient, the optimiser and the average follow, or are done already.

        Args:
            pair: The batch.
            seed: Of the generator of the loss.
        """
        if self.captured is None:
            return self.batch_loss(pair, torch.Generator(self.device).manual_seed(seed))
        whole = not self.trainer.fit_loop._should_accumulate()
        loss = self.captured(pair, seed, self.rest(self.global_step + 1), whole).clone()
        if whole:
            self.gradient_norm = self.captured.norm
        return loss

    @abstractmethod
    def batch_loss(self, pair: Pair, generator: torch.Generator) -> Tensor:
        """The loss of a batch, (), as a function of nothing else but the weights.

        Args:
            pair: The batch.
            generator: The only source of randomness beside torch's default ones.
        """

    def loss_parts(self) -> Sequence[object]:
        """What computes the loss: each part may declare that it is not ``capturable``."""
        return [*self.field.modules(), self.field.path, self.field.prediction, self.field.conditioning]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.captured is None:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        if self.captured is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def on_validation_model_zero_grad(self) -> None:
        if self.captured is None:  # a graph holds its gradients, perhaps half accumulated
            super().on_validation_model_zero_grad()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients as Lightning does, also those of a fused optimiser.

        Args:
            optimizer: The optimiser.
            gradient_clip_val: Largest norm, or largest absolute value; None or 0 for no clipping.
            gradient_clip_algorithm: ``"norm"`` or ``"value"``; None for the norm.
        """
        if self._scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            self._scaler.unscale_(optimizer)  # a fused optimiser's gradients are still scaled here
        if gradient_clip_val or logged(self.trainer, self.global_step + 1):
            self.gradient_norm = self._clipped(optimizer, gradient_clip_val, gradient_clip_algorithm)

    @staticmethod
    def _clipped(optimizer: Optimizer, most: float | None, algorithm: str | None) -> Tensor:
        """Clip the gradients of an optimiser's parameters; the norm before that, ()."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if most and algorithm == "value":
            nn.utils.clip_grad_value_(parameters, most)
        elif most:
            nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return ranks.whole(norm)

    def _finish(self, optimizer: Optimizer, rest: Tensor) -> Tensor:
        """Clipping, optimiser and moving average; the norm of the gradient before clipping, ()."""
        norm = self._clipped(optimizer, self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm)
        optimizer.step()
        self.average(rest)
        return norm

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        if self.captured is not None and optimizer_closure is not None:
            optimizer_closure()
            return
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.update_ema(self.global_step + 1)  # Lightning counts this step only after the hook

    def update_ema(self, step: int) -> None:
        """Update the moving average after an optimiser step.

        Args:
            step: Number of the step, from 1.
        """
        self.average(self.rest(step))

    def on_train_end(self) -> None:
        super().on_train_end()
        self.captured = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        make_portable(checkpoint.get("optimizer_states", ()), self._settings)
