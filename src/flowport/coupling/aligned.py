"""Couplings of point clouds that also match the points inside each pair of clouds.

References:
    Klein, Krämer and Noé 2023, "Equivariant flow matching", arXiv:2306.15030.
    Hui et al. 2025, "Not-So-Optimal Transport Flows for 3D Point Cloud Generation", arXiv:2502.12456.
"""

from dataclasses import replace

import torch
from torch import Tensor

from flowport.cost.earth_mover import optimal_matching
from flowport.coupling.base import Coupling, Plan
from flowport.coupling.independent import IndependentCoupling
from flowport.coupling.rotation import turned
from flowport.errors import FlowportError
from flowport.types import Pair


def match_by_swaps(a: Tensor, b: Tensor, rounds: int, generator: torch.Generator) -> Tensor:
    """A nearly optimal matching of the points of each pair of clouds, by random disjoint transpositions.

    Starts from the matching by rank of the first coordinate. In every round random disjoint pairs of points exchange
    their partners wherever this lowers Σ_k |a_k − b_p(k)|². The result is a permutation after every round. It consists
    of tensor operations, so it runs on any device. The exact counterpart is
    :func:`flowport.cost.earth_mover.optimal_matching`.

    Args:
        a: Source clouds, (n, d, N).
        b: Target clouds, (n, d, N).
        rounds: Number of rounds.
        generator: Random generator of the transpositions, on any device.

    Returns:
        Permutations p, (n, N) int64.
    """
    n, _, size = a.shape
    rows = torch.arange(n, device=a.device)[:, None]
    order = torch.empty(n, size, dtype=torch.long, device=a.device).scatter_(1, a[:, 0].argsort(1), b[:, 0].argsort(1))
    for _ in range(rounds):
        shuffle = torch.rand(n, size, generator=generator, device=generator.device).argsort(1).to(a.device)
        i, j = shuffle[:, : size // 2], shuffle[:, size // 2 : 2 * (size // 2)]
        p, q = order[rows, i], order[rows, j]
        apart = a.gather(2, _wide(i, a)) - a.gather(2, _wide(j, a))
        gain = (apart * (b.gather(2, _wide(q, b)) - b.gather(2, _wide(p, b)))).sum(1)
        change = gain > 0
        order.scatter_(1, i, torch.where(change, q, p)).scatter_(1, j, torch.where(change, p, q))
    return order


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[:, None].expand(-1, like.shape[1], -1)


class AlignedCoupling(Coupling):
    """Coupling of point clouds whose points are matched too: min over p and R of Σ_k |x0_k − R x1_p(k)|².

    ``coupling`` pairs the clouds; then the points of each target cloud are permuted by p and, with ``rotate``, rotated
    by R (otherwise R = I). The law of a cloud does not depend on the order of its points, so the permutation keeps both
    marginals. Source clouds stay as they are.

    The rotation keeps the law of the target only where both laws are invariant under rotations (solids in random pose,
    Gaussian noise) and the matching has no preferred direction: a source in a fixed pose would transfer it to its
    target. ``coupling`` must be independent, or use a cost that is invariant under a common rotation of both clouds
    (chamfer, earth_mover; sliced only approximately, by its fixed directions). ``swaps``, which start from one
    coordinate, are invariant approximately.

    Facts: those of ``coupling``; aligned, the mean squared distance between matched points.

    Args:
        coupling: Coupling of the clouds; IndependentCoupling where None.
        swaps: None for the exact assignment (scipy, on the CPU). A number ≥ 1 for so many rounds of random
            transpositions on the device of the points, within a few per cent of the optimum at 400.
        rotate: Whether target clouds are rotated towards their sources too.

    Raises:
        FlowportError: When ``swaps`` is below 1, or the points are not clouds (d, N) of one shape.
    """

    def __init__(self, coupling: Coupling | None = None, swaps: int | None = None, rotate: bool = False) -> None:
        if swaps is not None and swaps < 1:
            raise FlowportError(f"coupling.swaps is {swaps}; it must be at least 1, or null for the exact assignment")
        self.coupling, self.swaps, self.rotate = coupling or IndependentCoupling(), swaps, rotate

    @property
    def label_aware(self) -> bool:  # type: ignore[override]
        """Whether the coupling of the clouds is; the order of points says nothing of a label."""
        return self.coupling.independent or self.coupling.label_aware

    def __call__(self, pair: Pair, generator: torch.Generator) -> Plan:
        a, b = pair.source.x, pair.target.x
        if a.ndim != 3 or a.shape[1:] != b.shape[1:]:
            raise FlowportError(
                f"coupling=aligned matches the points of clouds (d, N), but source and target points have the shapes "
                f"{tuple(a.shape[1:])} and {tuple(b.shape[1:])}: use coupling=exact"
            )
        plan = self.coupling(pair, generator)
        a, b = a[plan.i], b[plan.j]
        with torch.no_grad(), torch.autocast(a.device.type, enabled=False):
            rotation = None
            if self.rotate:
                rotation, order = turned(a, b, lambda a, b: self._matched(a, b, generator))
            else:
                order = self._matched(a, b, generator)
        plan = replace(plan, order=order, rotation=rotation)
        found = plan.apply(pair)
        gap = (found.source.x - found.target.x).square().sum(1).mean()
        return replace(plan, facts={**plan.facts, "aligned": gap})

    def _matched(self, a: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
        return (
            optimal_matching(a, b)
            if self.swaps is None
            else match_by_swaps(a.float(), b.float(), self.swaps, generator)
        )
