"""The only place that broadcasts time over data."""

from torch import Tensor


def over(t: Tensor, x: Tensor) -> Tensor:
    """Reshape t of shape (B,) to (B, 1, …, 1) so that it multiplies x of shape (B, *D) row by row.

    Raises ValueError for any other shape of t: a (W,) tensor must never broadcast along the width of an image.
    """
    if t.ndim != 1 or t.shape[0] != x.shape[0]:
        raise ValueError(
            f"time must have shape ({x.shape[0]},) for points of shape {tuple(x.shape)}, not {tuple(t.shape)}"
        )
    return t.view(-1, *(1,) * (x.ndim - 1))
