"""The only place that broadcasts time over data."""

from torch import Tensor


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
