"""The whole training step in one CUDA graph: loss, gradient, clipping, optimiser and moving average.

A small network's step is bound by the launches of its kernels, which a graph replays at once. Everything else of
Lightning's automatic optimisation (callbacks, schedulers, checkpoints, counters) stays outside of the graph.

References:
    Ansel et al. 2024, "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
        Compilation" (CUDA graphs), doi:10.1145/3620665.3640366.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flowport.data.pairing import tensors_of
from flowport.network.recording import WARM_UP, GraphRecording, Recording, recorded, warming_up
from flowport.training.device_optimizer import OF_THE_DEVICE, DeviceRates
from flowport.types import Pair

Signature = dict[str, tuple[tuple[int, ...], torch.dtype]]


def signature(pair: Pair) -> Signature:
    """Shapes and types of the tensors of a batch, which a graph cannot change.

    Args:
        pair: A batch.
    """
    return {name: (tuple(part.shape), part.dtype) for name, part in tensors_of(pair).items()}


class CapturedStep:
    """A training step that is recorded for the first batch and replayed for every later one.

    The recording holds, in this order, the loss under the autocast of the trainer, its gradient, ``finish`` (clipping,
    optimiser and moving average) and, where gradients are accumulated, a second recording holds the first two alone.
    ``WARM_UP`` steps run before it; weights, buffers, moments and gradients are then as if they had not.

    Args:
        loss: (pair, generator) -> the loss, a scalar.
        finish: Called after the gradient of a step is complete, with the share of the new weights in the moving
            average, a tensor (); returns the norm of the gradient before clipping, ().
        changed: Modules whose parameters and buffers a step may change.
        optimizer: Which ``finish`` steps; its state is 0 before its first step (``ZERO_AT_FIRST``).
        pair: The first batch.
        accumulated: Number of batches whose mean loss an optimiser step minimises.
        autocast: Data type of autocast; None for none.
        recording: (device, generator, recording whose memory is shared or None) -> Recording.

    Attributes:
        loss: Loss of the last replay, ().
        norm: Norm of the gradient of the last whole step, ().

    Raises:
        FlowportError: Where an operation cannot be recorded, for instance since it reads a number from the device.
    """

    def __init__(
        self,
        loss: Callable[[Pair, torch.Generator], Tensor],
        finish: Callable[[Tensor], Tensor],
        changed: Sequence[nn.Module],
        optimizer: Optimizer,
        pair: Pair,
        accumulated: int,
        autocast: torch.dtype | None,
        recording: Callable[..., Recording] = GraphRecording,
    ) -> None:
        device = pair.source.x.device
        self._of_batch, self._finish, self.optimizer = loss, finish, optimizer
        self.accumulated, self.autocast, self.device = accumulated, autocast, device
        self.pair = Pair(pair.source.each(torch.clone), pair.target.each(torch.clone))
        self.signature, self.options = signature(pair), self._options()
        self.generator = torch.Generator(device)
        self.rest, self.loss, self.norm = (torch.zeros((), device=device) for _ in range(3))
        self.step = recording(device, self.generator, None)
        self.rates = DeviceRates(optimizer, device) if self.step.on_device else None
        with _undone(changed, optimizer), self._capturable(), warming_up(self.step, device):
            for _ in range(WARM_UP):
                self._whole()
        self.parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # a gradient that is accumulated must stay where it is, whatever becomes of ``grad``
        self.gradients = [torch.zeros_like(p) if accumulated > 1 else None for p in self.parameters]
        for p, gradient in zip(self.parameters, self.gradients, strict=True):
            p.grad = gradient
        self._record(self.step, self._whole)
        if accumulated > 1:
            self.part = recording(device, self.generator, self.step)
            self._record(self.part, self._gradient)

    def _record(self, recording: Recording, body: Callable[[], None]) -> None:
        advice = (
            "write capture=false, or declare capturable = False in the class of the part that reads from the device"
        )
        with self._capturable():
            recorded(recording, body, "the training step", advice)

    def _gradient(self) -> None:
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None, cache_enabled=False):
            loss = self._of_batch(self.pair, self.generator)
        with torch.autocast(self.device.type, enabled=False):
            (loss / self.accumulated).backward()
        self.loss.copy_(loss.detach())

    def _whole(self) -> None:
        if self.accumulated == 1:
            self.optimizer.zero_grad(set_to_none=True)  # the gradients are allocated in the graph's memory
        self._gradient()
        with torch.autocast(self.device.type, enabled=False):
            self.norm.copy_(self._finish(self.rest))
        if self.accumulated > 1:
            self.optimizer.zero_grad(set_to_none=False)

    @contextmanager
    def _capturable(self) -> Iterator[None]:
        with self.rates.inside() if self.rates else nullcontext(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*capturable=True.*")  # of torch, on the warm-up
            yield

    def _options(self) -> list[dict[str, Any]]:
        """Options of the optimiser that are constants of the graph."""
        outside = {"params", "lr", "initial_lr", *OF_THE_DEVICE}
        return [{k: v for k, v in group.items() if k not in outside} for group in self.optimizer.param_groups]

    def obstacle(self, pair: Pair, accumulated: int) -> str | None:
        """Why the step of a batch cannot be replayed; None where it can.

        Args:
            pair: The batch.
            accumulated: Number of batches of an optimiser step.
        """
        if accumulated != self.accumulated:
            return "the number of accumulated batches changes"
        if signature(pair) != self.signature:
            return "the shapes of its batches change"
        if self._options() != self.options:
            return "its scheduler changes options of the optimiser beside the learning rate"
        return None

    def __call__(self, pair: Pair, seed: int, rest: float, whole: bool) -> Tensor:
        """Replay the step of a batch.

        Args:
            pair: The batch.
            seed: Of the generator of the loss.
            rest: Share of the new weights in the moving average.
            whole: Whether the optimiser steps; otherwise the gradient is accumulated.

        Returns:
            The loss, (), which the next call overwrites, as it does ``norm``.
        """
        torch._foreach_copy_(list(tensors_of(self.pair).values()), list(tensors_of(pair).values()))
        self.generator.manual_seed(seed)
        self.rest.fill_(rest)
        if self.rates:
            self.rates.fill()
        (self.step if whole else self.part).replay()
        return self.loss


@contextmanager
def _undone(modules: Sequence[nn.Module], optimizer: Optimizer) -> Iterator[None]:
    """Afterwards weights, buffers and the state of the optimiser have the values of before, in the same tensors."""
    every = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    tensors = list({id(t): t for t in every}.values())
    kept = [t.detach().clone() for t in tensors]
    moments = {p: {k: v.clone() for k, v in state.items()} for p, state in optimizer.state.items()}
    yield
    with torch.no_grad():
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(value)
        for p, state in optimizer.state.items():
            for name, value in state.items():
                value.copy_(moments[p][name]) if p in moments else value.zero_()
