"""Tensor operations that many modules share: broadcasting time over data, host-to-device copies, bisection."""

from collections.abc import Callable

import torch
from torch import Tensor

HALVINGS = 53
"""Bisection steps: as many as a float64 has binary digits."""


def clamped(t: Tensor, low: float, high: float) -> Tensor:
    """t (B,) moved into [low, high]. One time expanded over all rows stays one, so that exact fields see it as one."""
    return t[:1].clamp(low, high).expand(t.shape) if t.ndim == 1 and t.stride(0) == 0 else t.clamp(low, high)


def over(t: Tensor, x: Tensor) -> Tensor:
    """Reshape t of shape (B,) to (B, 1, …, 1) so that it multiplies x of shape (B, *D) row by row.

    Raises ValueError for any other shape of t: a (W,) tensor must never broadcast along the width of an image.
    """
    if t.ndim != 1 or t.shape[0] != x.shape[0]:
        raise ValueError(
            f"time must have shape ({x.shape[0]},) for points of shape {tuple(x.shape)}, not {tuple(t.shape)}"
        )
    return t.view(-1, *(1,) * (x.ndim - 1))


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """x on a device. From the host to CUDA by way of pinned memory: an ordinary copy would wait for all queued work.

    From a device to the host, and between devices, as torch does it.
    """
    if x.device.type == "cpu" and torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def bisection(increasing: Callable[[Tensor], Tensor], values: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """t in [low, high] with increasing(t) = values, both (B,), by bisection in float64; the nearer end where no t has
    the value. One value expanded over all rows is solved for once."""
    shape, values = values.shape, values.double()
    values = values[:1] if values.stride(0) == 0 else values
    left, right = torch.full_like(values, low), torch.full_like(values, high)
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        below = increasing(middle) < values
        left, right = torch.where(below, middle, left), torch.where(below, right, middle)
    return torch.where(increasing(right) <= values, right, left).expand(shape)


def scaled(weight: Tensor, x: Tensor) -> Tensor:
    """weight (B,) times x (B, *D), in the precision of x."""
    return over(weight.to(x.dtype), x) * x
