"""Points as metrics see them: rows of float64, whatever the autocast and the network's dtype were."""

import torch
from torch import Tensor

from flowport.errors import FlowportError


def rows(x: Tensor) -> Tensor:
    """(n, *D) of any floating dtype -> (n, d) in float64, d = ∏D, on the same device (on the CPU where it has none).

    Raises FlowportError for NaN or infinite points: a distance to them means nothing.
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
    """(n, d), (m, d) -> (n, m) Euclidean distances.

    The fast |x|² + |y|² − 2x·y cancels for near points, so few dimensions take differences; in many dimensions the
    points are centred first and float64 leaves an error near 1e-8 of their spread.
    """
    centre = y.mean(dim=0)
    mode = "donot_use_mm_for_euclid_dist" if x.shape[1] <= 64 else "use_mm_for_euclid_dist"
    return torch.cdist(x - centre, y - centre, compute_mode=mode)


def thin(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """At most n rows of x: all of them in order, or n random ones without replacement."""
    if len(x) <= n:
        return x
    return x[torch.randperm(len(x), generator=generator)[:n].to(x.device)]
