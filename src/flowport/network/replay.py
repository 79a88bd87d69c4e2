"""Calls of a network that CUDA replays as graphs, for sampling and for the paths of fine-tuning.

References:
    Ansel et al. 2024, "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
        Compilation" (CUDA graphs), doi:10.1145/3620665.3640366.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flowport.network.recording import WARM_UP, GraphRecording, Recording, recorded, warming_up
from flowport.types import Condition

AFTER = 20
"""Calls of equal shapes that are computed anew before they are recorded, which takes as long as some tens of them."""

Call = Callable[[Tensor, Tensor, Condition], Tensor]
Given = tuple[Tensor | None, ...]


class _RecordedCall:
    """f(x, t, condition) of given shapes and, with ``slope``, its derivative with respect to x."""

    def __init__(self, function: Call, given: Given, recording: Callable[..., Recording], slope: bool) -> None:
        self.function, self.slope = function, slope
        self.static = [None if part is None else part.detach().clone() for part in given]
        x = self._x
        x.requires_grad_(slope)
        kind = x.device.type
        self.autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        self.calls, self.gradient = 0, torch.empty_like(x)
        self.forward = recording(x.device)
        self.backward = recording(x.device, None, self.forward) if slope else None
        with warming_up(self.forward, x.device):
            self.out = torch.empty_like(self._computed())
            self.cotangent = torch.zeros_like(self.out)
            for _ in range(WARM_UP):
                self._forward()
                if slope:
                    self._backward()
        self._record(self.forward, self._forward)
        if self.backward is not None:
            self._record(self.backward, self._backward)

    @staticmethod
    def _record(recording: Recording, body: Callable[[], None]) -> None:
        recorded(recording, body, "a network", "declare capturable = False in its class")

    @property
    def _x(self) -> Tensor:
        x = self.static[0]
        assert x is not None
        return x

    def _computed(self) -> Tensor:
        x, t, label, source, step = self.static
        assert x is not None and t is not None
        on = self.autocast is not None
        with torch.set_grad_enabled(self.slope), torch.autocast(x.device.type, self.autocast, on, cache_enabled=False):
            return self.function(x, t, Condition(label, source, step))

    def _forward(self) -> None:
        self.result = self._computed()
        self.out.copy_(self.result.detach())

    def _backward(self) -> None:
        (gradient,) = torch.autograd.grad(self.result, self._x, self.cotangent)
        self.gradient.copy_(gradient)

    @torch.no_grad()
    def __call__(self, given: Given) -> Tensor:
        """The result in a new tensor, without a gradient."""
        for mine, theirs in zip(self.static, given, strict=True):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
        self.calls += 1
        self.forward.replay()
        return self.out.clone()

    @torch.no_grad()
    def derivative(self, cotangent: Tensor, call: int) -> Tensor:
        """The derivative of the call with a number, times the cotangent, in a new tensor."""
        if call != self.calls or self.backward is None:
            raise RuntimeError("a replayed network was called again before the gradient of its last call was taken")
        self.cotangent.copy_(cotangent)
        self.backward.replay()
        return self.gradient.clone()


class _Differentiable(torch.autograd.Function):
    """A recorded call as an operation of autograd, in x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: _RecordedCall, given: Given) -> Tensor:
        result = call((x, *given[1:]))
        ctx.call, ctx.number = call, call.calls
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        return ctx.call.derivative(cotangent, ctx.number), None, None


class Replay:
    """Calls f(x, t, condition), recorded once for every combination of shapes and replayed from then on.

    A recording is valid as long as the weights are changed in place only. With ``gradients`` the first derivative with
    respect to x is recorded too, where x requires one, and must be taken before the next call of these shapes;
    derivatives with respect to anything else and second ones are not recorded.

    Args:
        function: f, which reads nothing from the device.
        recording: (device, generator or None, recording whose memory is shared or None) -> Recording.

    Attributes:
        gradients: Whether calls that need a gradient are replayed too.
    """

    def __init__(self, function: Call, recording: Callable[..., Recording] = GraphRecording) -> None:
        self.function, self.recording, self.gradients = function, recording, False
        self.calls: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, _RecordedCall] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a network has other weights, so it is not replayed."""

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """f(x, t, condition) in a new tensor.

        Args:
            x: Points, (B, *D).
            t: Times, (B,).
            condition: The condition of the rows.

        Raises:
            FlowportError: Where f cannot be recorded.
        """
        given = (x, t, condition.label, condition.source, condition.step)
        slope = torch.is_grad_enabled() and x.requires_grad
        key = _key(given, slope)
        if key not in self.recorded:
            self.calls[key] = self.calls.get(key, 0) + 1
            if self.calls[key] <= AFTER:
                return self.function(x, t, condition)
            self.recorded[key] = _RecordedCall(self.function, given, self.recording, slope)
        call = self.recorded[key]
        result: Tensor = _Differentiable.apply(x, call, given) if slope else call(given)
        return result


def _key(given: Given, slope: bool) -> Hashable:
    """All that a recording depends on beside the values of tensors."""
    kind = given[0].device.type if given[0] is not None else "cpu"
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    tensors = tuple(None if part is None else (tuple(part.shape), part.dtype, part.device) for part in given)
    products = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    return tensors, slope, autocast, products, torch.is_inference_mode_enabled()


@contextmanager
def gradients_replayed(module: nn.Module) -> Iterator[None]:
    """Within this context replayed networks are replayed with their first derivative with respect to x too.

    Args:
        module: For instance a field, whose weights need no gradient.
    """
    found = [network.replay for network in module.modules() if isinstance(getattr(network, "replay", None), Replay)]
    try:
        for replay in found:
            replay.gradients = True  # type: ignore[union-attr]
        yield
    finally:
        for replay in found:
            replay.gradients = False  # type: ignore[union-attr]


@contextmanager
def replayed(module: nn.Module) -> Iterator[None]:
    """Within this context the networks inside a module are replayed where they are on CUDA and can be.

    Contexts of one network may be nested: the outermost one keeps the recordings.

    Args:
        module: For instance a field.
    """
    started = start_replay(module)
    try:
        yield
    finally:
        stop_replay(started)


def start_replay(module: nn.Module, recording: Callable[..., Recording] | None = None) -> list[nn.Module]:
    """Let the networks inside a module be replayed; those that already are stay as they are.

    Args:
        module: For instance a field.
        recording: As in ``Replay``; None for CUDA graphs, of networks on CUDA only.

    Returns:
        The networks, for ``stop_replay``.
    """
    started: list[nn.Module] = []
    for network in module.modules():
        if getattr(network, "replay", False) is not None or not network.capturable:  # no network, or replayed already
            continue
        weight = next(network.parameters(), None)
        if recording is not None or (weight is not None and weight.is_cuda):
            network.replay = Replay(network.forward, recording or GraphRecording)  # type: ignore[assignment]
            started.append(network)
    return started


def stop_replay(started: list[nn.Module]) -> None:
    """Forget recordings and free their memory.

    Args:
        started: What ``start_replay`` returned.
    """
    for network in started:
        network.replay = None  # type: ignore[assignment]
