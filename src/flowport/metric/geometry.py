"""Geometry of two data sets, before any flow: intrinsic dimensions, Wasserstein and Gromov–Wasserstein distance."""

import ot
import torch
from jaxtyping import Float
from torch import Tensor

from flowport.cache import content_hash, kept_number
from flowport.errors import FlowportError, SampleSize
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.precision import distances, rows, thin
from flowport.metric.two_sample import gathered
from flowport.metric.wasserstein import wasserstein_2
from flowport.randomness import Randomness

VERSION = 1
"""Raised when a number is computed otherwise, so that kept ones of earlier versions are not read."""
QUANTILES = 64
"""Number of quantiles of the distances from a point, by which the first plan of Gromov–Wasserstein is found."""


def two_nn_dimension(x: Float[Tensor, "n *d"]) -> Tensor:
    """Intrinsic dimension by two nearest neighbours, (n − 1) / Σ_i log(r_i2 / r_i1), a float64 scalar.

    r_i1 and r_i2 are the distances from point i to its two nearest neighbours, whose ratio has the Pareto density
    d μ^(−d−1) where the density of the points is even over these distances. The standard error is d/√n. Copies of a
    point are taken once.

    Args:
        x: Points, (n, *D).

    Raises:
        FlowportError: For fewer than 3 distinct points.

    References:
        Facco, d'Errico, Rodriguez and Laio 2017, "Estimating the intrinsic dimension of datasets by a minimal
            neighborhood information", doi:10.1038/s41598-017-11873-y.
    """
    points = rows(x).unique(dim=0)
    if len(points) < 3:
        raise FlowportError(f"an intrinsic dimension needs 3 distinct points or more, found {len(points)}")
    gaps = distances(points, points)
    gaps.fill_diagonal_(torch.inf)
    near = gaps.topk(2, largest=False).values
    logs = (near[:, 1] / near[:, 0].clamp_min(1e-12 * float(near.max()))).log()
    return (len(points) - 1) / logs.sum().clamp_min(1e-300)


def gromov_wasserstein(x: Float[Tensor, "n *d"], y: Float[Tensor, "m *e"]) -> Tensor:
    """Gromov–Wasserstein distance GW = (min_π Σ (|x_i − x_k| − |y_j − y_l|)² π_ij π_kl)^½, a float64 scalar.

    It compares distances within the two sets alone, so that it is 0 for an isometric copy and the points may have
    different dimensions. The problem is not convex: the least of two solutions by conditional gradients is returned, an
    upper bound, one from the product plan and one from the plan that matches the distributions of distances from each
    point (Mémoli's third lower bound), which is optimal for an isometric copy without symmetries.

    Args:
        x: Points, (n, *D).
        y: Points, (m, *E).

    References:
        Mémoli 2011, "Gromov–Wasserstein distances and the metric approach to object matching",
            doi:10.1007/s10208-011-9093-5.
        Peyré, Cuturi and Solomon 2016, "Gromov–Wasserstein averaging of kernel and distance matrices", ICML.
    """
    a, b = (distances(points, points) for points in (rows(x).cpu(), rows(y).cpu()))
    levels = torch.linspace(0, 1, QUANTILES, dtype=torch.float64)
    far = [torch.quantile(gaps, levels, dim=1).T for gaps in (a, b)]
    p, q = (torch.full((len(gaps),), 1 / len(gaps), dtype=torch.float64).numpy() for gaps in (a, b))
    local = ot.emd(p, q, distances(*far).square().numpy(), numItermax=1_000_000)
    starts = [None, local]
    found = [
        ot.gromov.gromov_wasserstein2(a.numpy(), b.numpy(), p, q, "square_loss", G0=start, max_iter=1000, tol_rel=1e-9)
        for start in starts
    ]
    return torch.tensor(min(map(float, found)), dtype=torch.float64).clamp_min(0).sqrt()


class Geometry(Metric):
    """What is known of two data sets before a flow is trained, of held-out points of both.

    Values, which depend on the data alone and are kept by content, so that a sweep computes them once for a pair:

        source_dimension, target_dimension  intrinsic dimensions (``two_nn_dimension``);
        domain_w2                           W2 of source and target, where they have one shape;
        domain_gw                           ``gromov_wasserstein`` of at most ``matched`` points of each;
        _relative                           both divided by √(r_x r_y), where r is the root mean square of the distances
                                            between two points of a side, to compare data of different sizes;
        geometry_n                          the number of source points.

    Args:
        points: Largest number of points of each side.
        matched: Largest number of points of ``domain_gw``.
        seed: Seed of the subsets.

    References:
        Facco et al. 2017, "Estimating the intrinsic dimension of datasets by a minimal neighborhood information",
            doi:10.1038/s41598-017-11873-y.
        Mémoli 2011, "Gromov–Wasserstein distances and the metric approach to object matching",
            doi:10.1007/s10208-011-9093-5.
    """

    needs_candidates = True
    source: list[Tensor]
    target: list[Tensor]

    def __init__(self, points: SampleSize = 1024, matched: SampleSize = 200, seed: int = 0) -> None:
        super().__init__()
        self.points, self.matched, self.seed = points, matched, seed
        self.add_state("source", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        self.source.append(rows(outcome.source.x))
        self.target.append(rows((outcome.candidates or outcome.target).x))

    def compute(self) -> dict[str, Tensor]:
        """The numbers by name.

        Raises:
            FlowportError: For fewer than 3 distinct points of a side.
        """
        source, target = gathered(self.source), gathered(self.target)
        if source is None or target is None:
            raise FlowportError("the metric geometry has seen no points")
        # sorted and without copies, so that the number depends neither on the order nor on the batches
        x, y = (self._some(points.unique(dim=0), self.points) for points in (source, target))
        name = f"{VERSION}-{self.matched}-{content_hash([x, y])}"
        values = {"source_dimension": two_nn_dimension(x), "target_dimension": two_nn_dimension(y)}
        if x.shape[1] == y.shape[1]:
            found = kept_number("domain_w2", name, lambda: float(wasserstein_2(x, y)))
            values |= _scaled("domain_w2", found, x, y)
        few = [self._some(points, self.matched) for points in (x, y)]
        found = kept_number("domain_gw", name, lambda: float(gromov_wasserstein(*few)))
        values |= _scaled("domain_gw", found, x, y)
        return values | {"geometry_n": torch.tensor(len(x))}

    def _some(self, points: Tensor, n: int) -> Tensor:
        return thin(points, n, Randomness(self.seed, scope="geometry").generator("points"))


def _scaled(name: str, value: float, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """A distance in the unit of the points, and relative to their spread: E|x − x'|² is twice the variance."""
    spread = [2 * points.var(dim=0, correction=0).sum() for points in (x, y)]
    found = torch.tensor(value, dtype=torch.float64)
    return {name: found, f"{name}_relative": found / (spread[0] * spread[1]).cpu().sqrt().sqrt().clamp_min(1e-300)}
