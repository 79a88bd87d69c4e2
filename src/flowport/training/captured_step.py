"""The whole training step in one CUDA graph: loss, gradient, clipping, optimiser and moving average.

A small network's step is bound by the launches of its kernels, which a graph replays at once. Everything else of
Lightning's automatic optimisation (callbacks, schedulers, checkpoints, counters) stays outside of the graph.

References:
    Ansel et al. 2024, "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
        Compilation" (CUDA graphs), doi:10.1145/3620665.3640366.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flowport.errors import FlowportError
from flowport.training.device_optimizer import OF_THE_DEVICE, DeviceRates
from flowport.types import Pair

WARM_UP = 3
"""Steps before the capture, in which libraries allocate what they keep; their effect is undone."""

Signature = list[tuple[tuple[int, ...], torch.dtype] | None]


class Recording(ABC):
    """Operations that are recorded once and replayed as often as wanted, on the tensors of the recording.

    Attributes:
        on_device: Whether a replay runs without Python, so that every number of the recording is a constant.
    """

    on_device: ClassVar[bool]

    @abstractmethod
    def record(self, body: Callable[[], None]) -> None:
        """Record operations, which are not executed.

        Args:
            body: Calls the operations.
        """

    @abstractmethod
    def replay(self) -> None:
        """Execute the recorded operations."""


class GraphRecording(Recording):
    """A CUDA graph.

    Args:
        generator: Generator that the operations draw from, besides the default one; seeding it before a replay works.
        pool: Recording whose memory is shared, which must never be replayed at the same time.
    """

    on_device = True

    def __init__(self, generator: torch.Generator, pool: "GraphRecording | None" = None) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        self.pool = None if pool is None else pool.graph.pool()

    def record(self, body: Callable[[], None]) -> None:
        # thread_local: a thread that draws batches ahead may allocate memory at the same time
        with torch.cuda.graph(self.graph, pool=self.pool, capture_error_mode="thread_local"):
            body()

    def replay(self) -> None:
        self.graph.replay()


def tensors_of(pair: Pair) -> list[Tensor | None]:
    """Points, labels, masks and item numbers of source and target, None where there are none.

    Args:
        pair: A batch.
    """
    return [part for side in (pair.source, pair.target) for part in (side.x, side.label, side.mask, side.id)]


def signature(pair: Pair) -> Signature:
    """Shapes and types of the tensors of a batch, which a graph cannot change.

    Args:
        pair: A batch.
    """
    return [None if part is None else (tuple(part.shape), part.dtype) for part in tensors_of(pair)]


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
        recording: (generator, recording whose memory is shared or None) -> Recording.

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
        self.step = recording(self.generator, None)
        self.rates = DeviceRates(optimizer, device) if self.step.on_device else None
        with _undone(changed, optimizer), self._side_stream():
            for _ in range(WARM_UP):
                self._whole()
        self.parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for p in self.parameters:  # a gradient that is accumulated must stay where it is
            p.grad = torch.zeros_like(p) if accumulated > 1 else None
        self._record(self.step, self._whole)
        if accumulated > 1:
            self.part = recording(self.generator, self.step)
            self._record(self.part, self._gradient)

    def _record(self, recording: Recording, body: Callable[[], None]) -> None:
        try:
            with self._capturable():
                recording.record(body)
        except RuntimeError as error:
            first: BaseException = error  # the end of a failed capture fails too
            while first.__context__ is not None:
                first = first.__context__
            reason = str(first).strip().splitlines()[0]
            raise FlowportError(
                f"the training step cannot be captured in a CUDA graph ({reason}): write capture=false, or declare "
                "capturable = False in the class of the part that reads from the device"
            ) from error

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
    def _side_stream(self) -> Iterator[None]:
        """Runs on another stream of CUDA, as a capture asks of its warm-up."""
        if not self.step.on_device:
            yield
            return
        with torch.cuda.device(self.device), self._capturable():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                yield
            torch.cuda.current_stream().wait_stream(stream)

    @contextmanager
    def _capturable(self) -> Iterator[None]:
        with self.rates.inside() if self.rates else nullcontext(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*capturable=True.*")  # of torch, on the warm-up
            yield

    def _options(self) -> list[dict[str, Any]]:
        """Options of the optimiser that are constants of the graph."""
        outside = {"params", "lr", "initial_lr", *OF_THE_DEVICE}
        return [{k: v for k, v in group.items() if k not in outside} for group in self.optimizer.param_groups]

    def obstacle(self, pair: Pair) -> str | None:
        """Why the step of a batch cannot be replayed; None where it can.

        Args:
            pair: The batch.
        """
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
        static = [part for part in tensors_of(self.pair) if part is not None]
        torch._foreach_copy_(static, [part for part in tensors_of(pair) if part is not None])
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
