"""What the processes of one training tell each other through the CPU; of a single process it is what it says itself."""

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

WAIT = timedelta(hours=12)
"""Longest wait for another process: the first one measures and draws alone while the others wait."""
NEVER = 2**62
"""A number of a step that is never reached."""

_channels: dict[int, Any] = {}


def count() -> int:
    """Number of processes of the training."""
    return dist.get_world_size() if _joined() else 1


def number() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _joined() else 0


def largest(value: int) -> int:
    """The largest of the values that all processes give, each at the same point of its program.

    Args:
        value: Of this process.
    """
    if count() == 1:
        return value
    held = torch.tensor(value, dtype=torch.int64)
    dist.all_reduce(held, dist.ReduceOp.MAX, group=_channel())
    return int(held)


def least(value: int) -> int:
    """The least of the values that all processes give.

    Args:
        value: Of this process.
    """
    return -largest(-value)


def gathered(value: Any) -> list[Any]:
    """The values of all processes in their order on the first one; an empty list on the others.

    Args:
        value: Of this process, with tensors on the CPU only.
    """
    if count() == 1:
        return [value]
    found: list[Any] | None = [None] * count() if number() == 0 else None
    dist.gather_object(value, found, dst=0, group=_channel())
    return found or []


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless its values are split over processes (FSDP2).

    Args:
        tensor: Any tensor.
    """
    split: Any = tensor
    return split.to_local() if _split(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, which all of them ask for at the same point.

    Args:
        tensor: Any tensor.
    """
    split: Any = tensor
    return split.full_tensor() if _split(tensor) else tensor


def _split(tensor: Tensor) -> bool:
    if count() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def leave() -> None:
    """End the connection of the processes, which all of them do at the same point."""
    if _joined():
        _channels.clear()
        dist.destroy_process_group()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _channel() -> Any:
    """The group of all processes that talks through the CPU, so that no number waits for a GPU; made at first use."""
    whole = dist.group.WORLD
    if dist.get_backend() == "gloo":
        return whole
    if id(whole) not in _channels:
        _channels.clear()
        _channels[id(whole)] = dist.new_group(backend="gloo", timeout=WAIT)
    return _channels[id(whole)]
