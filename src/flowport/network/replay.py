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

from flowport.errors import FlowportError
from flowport.types import Condition

AFTER = 20
"""Calls of equal shapes that are computed anew before they are recorded, which takes as long as some tens of them."""


class Replay:
    """Calls f(x, t, condition), recorded once for every combination of shapes and replayed from then on.

    A recording is valid as long as the weights are changed in place only. With ``gradients`` the first derivative with
    respect to x is recorded too, where x requires one; derivatives with respect to weights and second ones are not.

    Args:
        function: f, which reads nothing from the device.
        record: (function of tensors, tensors) -> the replayed function, whose result the next call may overwrite.

    Attributes:
        gradients: Whether calls that need a gradient are replayed too.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor, Condition], Tensor],
        record: Callable[..., Callable[..., Tensor]] | None = None,
    ) -> None:
        self.function, self.record = function, record or torch.cuda.make_graphed_callables
        self.gradients = False
        self.calls: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, Callable[..., Tensor]] = {}

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
        key = _key(given)
        if key not in self.recorded:
            self.calls[key] = self.calls.get(key, 0) + 1
            if self.calls[key] <= AFTER:
                return self.function(x, t, condition)
            self.recorded[key] = self._recorded(given)
        return self.recorded[key](*(part for part in given if part is not None)).clone()

    def _recorded(self, given: tuple[Tensor | None, ...]) -> Callable[..., Tensor]:
        present = [part is not None for part in given]

        def call(*tensors: Tensor) -> Tensor:
            parts = iter(tensors)
            x, t, label, source, step = (next(parts) if there else None for there in present)
            assert x is not None and t is not None
            return self.function(x, t, Condition(label, source, step))

        grad = torch.is_grad_enabled()
        sample = tuple(
            part.detach().clone().requires_grad_(grad and part.requires_grad) for part in given if part is not None
        )
        try:
            made: Callable[..., Tensor] = self.record(call, sample)  # type: ignore[assignment]
            return made
        except RuntimeError as error:
            first: BaseException = error
            while first.__context__ is not None:
                first = first.__context__
            raise FlowportError(
                f"a network cannot be recorded in a CUDA graph ({str(first).strip().splitlines()[0]}): declare "
                "capturable = False in its class"
            ) from error


def _key(given: tuple[Tensor | None, ...]) -> Hashable:
    """All that a recording depends on beside the values of tensors."""
    grad = torch.is_grad_enabled()
    kind = given[0].device.type if given[0] is not None else "cpu"
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    tensors = tuple(
        None if part is None else (tuple(part.shape), part.dtype, grad and part.requires_grad) for part in given
    )
    products = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    return tensors, autocast, products, torch.is_inference_mode_enabled()


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


def start_replay(module: nn.Module, record: Callable[..., Callable[..., Tensor]] | None = None) -> list[nn.Module]:
    """Let the networks inside a module be replayed; those that already are stay as they are.

    Args:
        module: For instance a field.
        record: As in ``Replay``; None for CUDA graphs, of networks on CUDA only.

    Returns:
        The networks, for ``stop_replay``.
    """
    started: list[nn.Module] = []
    for network in module.modules():
        if getattr(network, "replay", False) is not None or not network.capturable:  # no network, or replayed already
            continue
        weight = next(network.parameters(), None)
        if record is not None or (weight is not None and weight.is_cuda):
            network.replay = Replay(network.forward, record)  # type: ignore[assignment]
            started.append(network)
    return started


def stop_replay(started: list[nn.Module]) -> None:
    """Forget recordings and free their memory.

    Args:
        started: What ``start_replay`` returned.
    """
    for network in started:
        network.replay = None  # type: ignore[assignment]
