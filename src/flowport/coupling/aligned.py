"""Clouds are sets: inside a pair of them the points too must be told who goes with whom."""

from dataclasses import replace

import torch
from torch import Tensor

from flowport.cost.earth_mover import assigned
from flowport.coupling.base import Coupling, Plan
from flowport.coupling.independent import IndependentCoupling
from flowport.coupling.rotation import turned
from flowport.errors import FlowportError
from flowport.types import Pair


def swapped(a: Tensor, b: Tensor, rounds: int, generator: torch.Generator) -> Tensor:
    """As :func:`flowport.cost.earth_mover.assigned`, nearly: from the sorted order of the first coordinate, rounds of
    random disjoint transpositions, each made where it shortens. A bijection after every round; tensors only, so it
    runs on any device."""
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
    """Clouds are paired by ``coupling``, then the points of each target cloud are permuted to match its source's.

    The law of a cloud does not depend on the order of its points, so both marginals stay (the *target* is permuted, so
    that an ordered source would stay as it is too). swaps: None for the exact assignment (scipy, on the CPU); a number:
    so many rounds of random swaps on the tensors' device, within a few per cent of it at 400. facts: the coupling's
    own, and aligned, the mean squared distance between matched points. Raises FlowportError for points that are not
    clouds.

    rotate: the target is turned towards its source as well (:func:`flowport.coupling.rotation.turned`). The source
    always stays as it is. The target's law stays where **both** laws are the same in every pose (solids in random pose,
    Gaussian noise) and nothing else prefers one: a source in a fixed pose would hand it to its target; ``coupling``
    must be independent, or of a cost that a common turn leaves as it is (chamfer, earth_mover; sliced only nearly, by
    its fixed directions), and swaps, which start from one coordinate, keep it only nearly.
    (Hui et al. 2025; Klein et al. 2023, equivariant flow matching.)
    """

    def __init__(self, coupling: Coupling | None = None, swaps: int | None = None, rotate: bool = False) -> None:
        if swaps is not None and swaps < 1:
            raise FlowportError(f"coupling.swaps is {swaps}; it must be at least 1, or null for the exact assignment")
        self.coupling, self.swaps, self.rotate = coupling or IndependentCoupling(), swaps, rotate

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
        return assigned(a, b) if self.swaps is None else swapped(a.float(), b.float(), self.swaps, generator)
