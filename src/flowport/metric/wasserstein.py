"""Wasserstein distances between empirical laws: exact, and averaged over projections on lines."""

import ot
import torch
from jaxtyping import Float
from torch import Tensor

from flowport.errors import Count, FlowportError, SampleSize
from flowport.metric.precision import distances, rows
from flowport.metric.two_sample import TwoSample

PIVOTS = 20_000_000
"""Largest number of pivots; the simplex needs about 200 per point, so POT's default of 100,000 fails near n = 1000."""


def wasserstein_2(x: Float[Tensor, "n *d"], y: Float[Tensor, "m *d"]) -> Tensor:
    """Exact 2-Wasserstein distance W2 = (min_π Σ π_ij |x_i − y_j|²)^½ over plans π with uniform marginals.

    Solved by POT's network simplex on the CPU in float64, in about O(n² log n) time and 8nm bytes: 2 s at n = 4096, 20
    s at n = 10,000.

    Args:
        x: Points, (n, *D).
        y: Points, (m, *D).

    Returns:
        A float64 scalar in the unit of x.

    Raises:
        FlowportError: When the simplex does not converge, and for points that are not finite.

    References:
        Bonneel et al. 2011, "Displacement interpolation using Lagrangian mass transport", doi:10.1145/2070781.2024192.
        Flamary et al. 2021, "POT: Python Optimal Transport", JMLR 22(78):1-8.
    """
    cost = distances(rows(x), rows(y)).square()
    value, log = ot.emd2([], [], cost.cpu().numpy(), numItermax=PIVOTS, log=True)
    if log["warning"] is not None:
        raise FlowportError(
            f"exact W2 of {len(x)} and {len(y)} points did not converge ({log['warning']}): use fewer points"
        )
    return torch.as_tensor(float(value), dtype=torch.float64).clamp(min=0).sqrt()


def sliced_wasserstein_2(
    x: Float[Tensor, "n *d"], y: Float[Tensor, "m *d"], projections: int, generator: torch.Generator
) -> Tensor:
    """Sliced 2-Wasserstein distance SW2 = (E_θ W2²(θ·x, θ·y))^½ over directions θ uniform on the unit sphere of R^d.

    W2 on the line is exact, by quantiles. SW2 ≤ W2; a shift by c has SW2 = |c|/√d.

    Args:
        x: Points, (n, *D).
        y: Points, (m, *D).
        projections: Number of directions over which the mean is taken.
        generator: Randomness of the directions.

    Returns:
        A float64 scalar in the unit of x.

    References:
        Rabin et al. 2011, "Wasserstein barycenter and its application to texture mixing",
            doi:10.1007/978-3-642-24785-9_37.
        Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures", doi:10.1007/s10851-014-0506-3.
    """
    x, y = rows(x), rows(y)
    theta = torch.randn(x.shape[1], projections, generator=generator, dtype=torch.float64, device=generator.device)
    theta = (theta / theta.norm(dim=0)).to(x.device)
    return _line_cost(x @ theta, y @ theta).mean().sqrt()


def _line_cost(x: Tensor, y: Tensor) -> Tensor:
    """W2² = ∫|F⁻¹(u) − G⁻¹(u)|² du of each column; quantiles jump at k/n and k/m, integers in units of 1/nm."""
    n, m = len(x), len(y)
    jumps = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique().to(x.device)
    start, width = jumps[:-1], jumps.diff()
    gap = x.sort(dim=0).values[start // m] - y.sort(dim=0).values[start // n]
    return (width.to(x)[:, None] * gap.square()).sum(dim=0) / (n * m)


class Wasserstein(TwoSample):
    """Exact 2-Wasserstein distance ``w2`` between translations and target, see :func:`wasserstein_2`.

    Values: ``w2``, ``w2_floor``, ``w2_untranslated``, ``w2_n``, in the unit of the points. The bias of an empirical W2
    falls as n^(−1/d), so it is to be compared with its floor.

    Args:
        points: Largest number of points of each sample.
        seed: Seed of the subsets.

    References:
        Bonneel et al. 2011, "Displacement interpolation using Lagrangian mass transport", doi:10.1145/2070781.2024192.
    """

    def __init__(self, points: SampleSize = 4096, seed: int = 0) -> None:
        super().__init__("w2", points, seed)

    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"": wasserstein_2(x, y)}


class SlicedWasserstein(TwoSample):
    """Sliced 2-Wasserstein distance ``sliced_w2``, for any dimension and many points, see :func:`sliced_wasserstein_2`.

    Values: ``sliced_w2`` with ``_floor``, ``_untranslated`` and ``_n``, in the unit of the points.

    Args:
        projections: Number of directions.
        points: Largest number of points of each sample.
        seed: Seed of subsets and directions.

    References:
        Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures", doi:10.1007/s10851-014-0506-3.
    """

    def __init__(self, projections: Count = 256, points: SampleSize = 16384, seed: int = 0) -> None:
        super().__init__("sliced_w2", points, seed)
        self.projections = projections

    def distance(self, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"": sliced_wasserstein_2(x, y, self.projections, generator)}
