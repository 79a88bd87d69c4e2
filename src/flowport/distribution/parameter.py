"""Checks of numbers that the user gives, and their conversion to tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.types import EventShape

Numbers = float | int | Sequence[Any] | Tensor
PRECISIONS: dict[Any, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


def precision(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype of this name.

    Args:
        dtype: ``"float32"``, ``"float64"`` or the torch dtype itself.

    Raises:
        FlowportError: When it is another dtype.
    """
    if dtype not in PRECISIONS:
        raise FlowportError(f"dtype is {dtype!r}; it must be float32 or float64")
    return PRECISIONS[dtype]


def numbers(key: str, value: Numbers, dtype: torch.dtype) -> Tensor:
    """A number or nested list of numbers as a tensor of finite values.

    Args:
        key: Name of the option in the message.
        value: A number, a rectangular nested list of numbers, or a tensor.
        dtype: Dtype of the result.

    Raises:
        FlowportError: When the value is not numeric, not rectangular or not finite.
    """
    try:
        tensor = torch.as_tensor(value, dtype=dtype) if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError):
        raise FlowportError(f"{key} is {value!r}; it must be a number or a rectangular list of numbers") from None
    if not tensor.isfinite().all():
        raise FlowportError(f"{key} is {value!r}; every number must be finite")
    return tensor


def event(shape: int | Sequence[int]) -> EventShape:
    """The event shape as a tuple; 2 and [2] both mean points in R².

    Args:
        shape: A dimension or a list of positive sizes.

    Raises:
        FlowportError: When the list is empty or a size is not a positive whole number.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not sizes or any(not isinstance(s, int) or s < 1 for s in sizes):
        raise FlowportError(
            f"event_shape is {shape!r}; it must be a list of positive whole numbers, such as [2] or [1,16,16]"
        )
    return sizes


def positive(key: str, value: float, or_zero: bool = False) -> float:
    """The same number, after a check that it is positive.

    Args:
        key: Name of the option in the message.
        value: The number.
        or_zero: Whether zero is allowed.

    Raises:
        FlowportError: When the number is negative, or zero where that is not allowed.
    """
    if not (value > 0 or (or_zero and value == 0)):
        raise FlowportError(f"{key} is {value}; it must be {'at least 0' if or_zero else 'positive'}")
    return value
