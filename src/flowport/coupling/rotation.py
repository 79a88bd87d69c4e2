"""Rotational alignment of point clouds.

References:
    Kabsch 1976, "A solution for the best rotation to relate two sets of vectors", doi:10.1107/S0567739476001873.
    Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns",
        doi:10.1109/34.88573.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from flowport.cost.chamfer import chamfer_of_pairs

ROUNDS = 4
"""Alternations of matching and rotation."""


def kabsch(a: Tensor, b: Tensor) -> Tensor:
    """The rotation R, det R = 1, that minimises Σ_k |a_k − R b_k|² for each pair of clouds, about the origin.

    With a bᵀ = U S Vᵀ it is R = U diag(1, …, 1, det U Vᵀ) Vᵀ.

    Args:
        a: Clouds, (n, d, N).
        b: Clouds that are rotated, (n, d, N), point k matched to point k of ``a``.

    Returns:
        R, (n, d, d) float64.
    """
    u, _, vt = torch.linalg.svd(a.double() @ b.double().transpose(1, 2))
    sign = torch.ones_like(u[:, 0])
    sign[:, -1] = torch.linalg.det(u @ vt)
    return u @ (sign[:, :, None] * vt)


def principal(a: Tensor, b: Tensor) -> Tensor:
    """All rotations that map the principal axes of b onto those of a, in the order of their eigenvalues.

    Args:
        a: Clouds, (n, d, N); second moments are taken about the origin.
        b: Clouds that are rotated, (n, d, N).

    Returns:
        Rotations, (n, 2^(d−1), d, d) float64: one for each choice of signs with determinant 1.
    """
    frames = []
    for cloud in (a.double(), b.double()):
        frame = torch.linalg.eigh(cloud @ cloud.transpose(1, 2)).eigenvectors
        sign = torch.ones_like(frame[:, 0])
        sign[:, -1] = torch.linalg.det(frame)
        frames.append(frame * sign[:, None])
    number = torch.arange(2 ** a.shape[1], device=a.device)
    bits = number[:, None] >> torch.arange(a.shape[1] - 1, -1, -1, device=a.device) & 1
    even = (bits.sum(1) % 2).argsort(stable=True)[: 2 ** (a.shape[1] - 1)]  # the signs whose product is 1, in order
    flips = torch.diag_embed((1 - 2 * bits[even]).to(frames[0].dtype))
    return frames[0][:, None] @ flips @ frames[1][:, None].transpose(2, 3)


def turned(a: Tensor, b: Tensor, match: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A rotation R and a matching p with a small Σ_k |a_k − R b_p(k)|² for each pair of clouds.

    Matching and rotation are optimised in turn, starting from the principal rotation with the least Chamfer distance.
    The result is compared with the matching of the unrotated clouds followed by its Kabsch rotation, and the better one
    is returned: for an exact ``match`` the cost is never above that without a rotation.

    Args:
        a: Clouds (n, d, N) that stay as they are.
        b: Clouds (n, d, N) that are rotated and permuted.
        match: Maps two clouds to the permutations (n, N) of the second that match the first.

    Returns:
        R, (n, d, d) float64, and p, (n, N) int64.
    """

    def moved(rotation: Tensor, order: Tensor) -> Tensor:
        return rotation @ b.double().gather(2, order[:, None].expand(-1, b.shape[1], -1))

    starts = principal(a, b)
    n, k = starts.shape[:2]
    rotated = (starts @ b.double()[:, None]).flatten(0, 1)
    gap = chamfer_of_pairs(a.repeat_interleave(k, 0), rotated).view(n, k)
    rotation = starts[torch.arange(n, device=a.device), gap.argmin(1)]
    order, unturned = match(a, rotation @ b.double()), torch.eye(b.shape[1], dtype=torch.float64, device=a.device)
    for _ in range(ROUNDS - 1):
        rotation = kabsch(a, moved(unturned, order))
        order = match(a, rotation @ b.double())
    plain = match(a, b)
    found = [(kabsch(a, moved(unturned, p)), p) for p in (order, plain)]
    costs = [(a - moved(*each)).square().sum((1, 2)) for each in found]
    first = costs[0] <= costs[1]
    return torch.where(first[:, None, None], found[0][0], found[1][0]), torch.where(first[:, None], order, plain)
