"""Tensor operations that many modules share: times over points, copies to a device, noise, precision, bisection."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import TypeVar

import torch
from torch import Tensor

HALVINGS = 53
"""Bisection steps: the number of binary digits of a float64."""
Owner = TypeVar("Owner")


def clamped(t: Tensor, low: float, high: float) -> Tensor:
    """Times clamped to [low, high].

    A single time that is expanded over all rows (stride 0) stays expanded, so that analytic fields evaluate it once.

    Args:
        t: Times, (B,).
        low: Lower end of the interval.
        high: Upper end of the interval.
    """
    return t[:1].clamp(low, high).expand(t.shape) if t.ndim == 1 and t.stride(0) == 0 else t.clamp(low, high)


def over(t: Tensor, x: Tensor) -> Tensor:
    """Values t (B,) reshaped to (B, 1, …, 1), so that they broadcast over the rows of points x (B, *D).

    Args:
        t: One value for each row, (B,).
        x: Points, (B, *D).

    Raises:
        ValueError: When t is not (B,). A tensor (W,) would otherwise broadcast along the width of an image.
    """
    if t.ndim != 1 or t.shape[0] != x.shape[0]:
        raise ValueError(
            f"time must have shape ({x.shape[0]},) for points of shape {tuple(x.shape)}, not {tuple(t.shape)}"
        )
    return t.view(-1, *(1,) * (x.ndim - 1))


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """A tensor copied to a device, from the host to CUDA asynchronously through pinned memory.

    An ordinary copy from the host would wait for all work that is queued on the device. All other copies are
    ``Tensor.to``.

    Args:
        x: Tensor on any device.
        device: The device to copy to.
    """
    if x.device.type == "cpu" and torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of the shape and the dtype of a tensor, on its device.

    They are drawn where the generator is, so that one of the CPU gives the same numbers on every device.

    Args:
        x: Tensor on any device.
        generator: Source of the numbers, on any device.
    """
    return to_device(torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype), x.device)


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """A context in which CUDA multiplies and convolves float32 in full, or rounded to TF32 (10 bits of mantissa).

    What was set before is set again at the end. Without CUDA nothing is set, because the same switch has a meaning for
    the CPU.

    Args:
        tf32: Whether factors are rounded.
    """
    if not torch.cuda.is_available():
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        _set_products("high" if tf32 else "highest", tf32)
        yield
    finally:
        _set_products(*before)


def _set_products(matmul: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions


def to_host(x: Tensor) -> Tensor:
    """A tensor copied to the host, from CUDA through pinned memory.

    The calling thread waits for what its own stream has queued before, not for the device's other streams, and lets
    other threads run meanwhile. All other copies are ``Tensor.cpu``.

    Args:
        x: Tensor on any device.
    """
    if x.device.type != "cuda":
        return x.cpu()
    held = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    held.copy_(x, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)
    copied.record(torch.cuda.current_stream(x.device))
    copied.synchronize()
    return held


def moved(owner: Owner, device: torch.device | str) -> Owner:
    """A shallow copy of an object whose own tensors are on a device, so that its constants are copied there once.

    Args:
        owner: An object; its attributes that are tensors move, all others are shared.
        device: The device to copy to.
    """
    other = copy(owner)
    for name, value in vars(owner).items():
        if isinstance(value, Tensor):
            setattr(other, name, value.to(device))
    return other


def bisection(increasing: Callable[[Tensor], Tensor], values: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """The inverse of an increasing function f: the t in [low, high] with f(t) = values, by bisection in float64.

    The result is the nearer end of the interval where no t has the value. A single value that is expanded over all rows
    (stride 0) is solved for once.

    Args:
        increasing: The function f, which maps (B,) float64 to (B,) elementwise.
        values: Values of f, (B,).
        low: Lower end of the interval.
        high: Upper end of the interval.

    Returns:
        t, (B,) float64.
    """
    shape, values = values.shape, values.double()
    values = values[:1] if values.stride(0) == 0 else values
    left, right = torch.full_like(values, low), torch.full_like(values, high)
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        below = increasing(middle) < values
        left, right = torch.where(below, middle, left), torch.where(below, right, middle)
    return torch.where(increasing(right) <= values, right, left).expand(shape)


def scaled(weight: Tensor, x: Tensor) -> Tensor:
    """Points multiplied row by row by weights, in the dtype of the points.

    Args:
        weight: One factor for each row, (B,).
        x: Points, (B, *D).
    """
    return over(weight.to(x.dtype), x) * x


def standard_error(values: Tensor, dim: int = -1) -> Tensor:
    """Standard error s/√n of the mean of n independent values, (…); NaN for one value, which does not show it.

    Args:
        values: The values, (…, n, …).
        dim: Dimension of the n values.
    """
    n = values.shape[dim]
    if n < 2:
        return torch.full_like(values.sum(dim), torch.nan)
    return values.std(dim) / n**0.5
