"""The rotation that brings one cloud of points nearest to another."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from flowport.cost.chamfer import chamfer_of_pairs

ROUNDS = 4
"""Of assignment and rotation in turn."""


def kabsch(a: Tensor, b: Tensor) -> Tensor:
    """(n, d, d): for each pair of clouds (n, d, N) the rotation R, det R = 1, with the least Σ_k |a_k − R b_k|².

    With a bᵀ = U S Vᵀ it is U diag(1, …, 1, det U Vᵀ) Vᵀ, about the origin. (Kabsch 1976; Umeyama 1991.)
    """
    u, _, vt = torch.linalg.svd(a.double() @ b.double().transpose(1, 2))
    sign = torch.ones_like(u[:, 0])
    sign[:, -1] = torch.linalg.det(u @ vt)
    return u @ (sign[:, :, None] * vt)


def principal(a: Tensor, b: Tensor) -> Tensor:
    """(n, 2^(d−1), d, d): all rotations that bring the principal axes of b onto those of a, largest onto largest."""
    frames = []
    for cloud in (a.double(), b.double()):
        frame = torch.linalg.eigh(cloud @ cloud.transpose(1, 2)).eigenvectors
        sign = torch.ones_like(frame[:, 0])
        sign[:, -1] = torch.linalg.det(frame)
        frames.append(frame * sign[:, None])
    signs = [s for s in product((1.0, -1.0), repeat=a.shape[1]) if torch.tensor(s).prod() > 0]
    flips = torch.diag_embed(torch.tensor(signs).to(frames[0]))
    return frames[0][:, None] @ flips @ frames[1][:, None].transpose(2, 3)


def turned(a: Tensor, b: Tensor, match: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """(rotation R (n, d, d), order p (n, N)): a small Σ_k |a_k − R b_p(k)|², never above that of no rotation.

    match: (a, b) -> order. Rotation and assignment in turn, neither of which can raise the cost, from the best (by
    Chamfer distance) of the principal rotations; and the Kabsch rotation for the order without one, where it is better.
    """

    def moved(rotation: Tensor, order: Tensor) -> Tensor:
        return rotation @ b.double().gather(2, order[:, None].expand(-1, b.shape[1], -1))

    starts = principal(a, b)
    n, k = starts.shape[:2]
    there = (starts @ b.double()[:, None]).flatten(0, 1)
    gap = chamfer_of_pairs(a.repeat_interleave(k, 0), there).view(n, k)
    rotation = starts[torch.arange(n, device=a.device), gap.argmin(1)]
    order = match(a, rotation @ b.double())
    for _ in range(ROUNDS - 1):
        rotation = kabsch(a, moved(torch.eye(b.shape[1]).to(rotation), order))
        order = match(a, rotation @ b.double())
    plain = match(a, b)
    found = [(kabsch(a, moved(torch.eye(b.shape[1]).to(rotation), p)), p) for p in (order, plain)]
    costs = [(a - moved(*each)).square().sum((1, 2)) for each in found]
    first = costs[0] <= costs[1]
    return torch.where(first[:, None, None], found[0][0], found[1][0]), torch.where(first[:, None], order, plain)
