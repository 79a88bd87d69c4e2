"""The inverse of an increasing function of time."""

from collections.abc import Callable

import torch
from torch import Tensor

HALVINGS = 53
"""As many as a double has digits."""


def inverse(increasing: Callable[[Tensor], Tensor], values: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
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
