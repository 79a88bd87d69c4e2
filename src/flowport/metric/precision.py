"""Numerics of metrics: points as rows of float64, Euclidean distances and random subsets."""

import torch
from torch import Tensor

from flowport.errors import FlowportError


def rows(x: Tensor) -> Tensor:
    """Points as rows of float64, (n, d) with d = ∏D, on the same device (on the CPU where that has no float64).

    Args:
        x: Points of any floating-point dtype, (n, *D).

    Raises:
        FlowportError: For points that are NaN or infinite.
    """
    x = x.detach()
    flat = (x.cpu() if x.device.type == "mps" else x).reshape(x.shape[0], -1).double()
    broken = int((~flat.isfinite()).any(dim=1).sum())
    if broken:
        raise FlowportError(
            f"{broken} of {len(flat)} evaluated points are NaN or infinite, so no metric can be taken: "
            "use more solver steps, or a run whose training did not diverge"
        )
    return flat


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances |x_i − y_j|, (n, m).

    Up to 64 dimensions differences are taken, because |x|² + |y|² − 2x·y cancels for near points; above, the points are
    centred first, and float64 leaves an error near 1e-8 of their spread.

    Args:
        x: Points, (n, d).
        y: Points, (m, d).
    """
    centre = y.mean(dim=0)
    mode = "donot_use_mm_for_euclid_dist" if x.shape[1] <= 64 else "use_mm_for_euclid_dist"
    return torch.cdist(x - centre, y - centre, compute_mode=mode)


def thin(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """At most n rows: all in order, or n random rows without replacement.

    Args:
        x: Rows, (m, …).
        n: Largest number of rows.
        generator: Randomness of the choice.
    """
    if len(x) <= n:
        return x
    return x[torch.randperm(len(x), generator=generator)[:n].to(x.device)]
