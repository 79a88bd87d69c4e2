"""Whether the tilt p e^{λr}/Z exists: it does not where the reward grows faster than the base's density falls.

A component N(m, S) of p and r = cᵀx − ½ xᵀQx have the finite mass ∫ N(x; m, S) e^{λr} dx iff S⁻¹ + λQ is positive
definite. Where p or r have no closed form, the reward's growth far out is compared with the fall of a Gaussian of the
covariance of p.
"""

import logging
import math

import torch
from torch import Tensor

from flowport.distribution import Gaussian, Mixture
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.reward import DistanceReward, LinearReward, QuadraticReward, Reward, SumReward
from flowport.types import Condition

logger = logging.getLogger(__name__)
FAR = 1e4
"""Distance, in standard deviations of the target, at which a reward's growth is that of its leading power."""
WIDEST = 64
"""Largest number of coordinates for which growth in all directions is examined."""
POINTS = 1024
"""Points from which the covariance of the target is estimated."""
LEFT = 1e3
"""Ratio of the root mean squares of results and data from which on results are said to have left the data's range."""


def largest_strength(covariances: Tensor, q: Tensor) -> float:
    """The strength λ* below which Σ_k w_k N(m_k, S_k) e^{−λ xᵀQx/2} has finite mass: 1/max_k λ_max(−L_kᵀ Q L_k).

    Args:
        covariances: S_k = L_k L_kᵀ, (K, d, d).
        q: Symmetric matrix Q, (d, d).

    Returns:
        λ*, infinite where no direction grows.
    """
    factor = torch.linalg.cholesky(covariances.double())
    growth = float(torch.linalg.eigvalsh(-factor.mT @ q.double() @ factor).amax())
    return 1 / growth if growth > 0 else math.inf


def curvature(reward: Reward) -> Tensor | None:
    """The matrix Q of a reward cᵀx − ½ xᵀQx of flattened points, (d, d) float64; None for any other reward.

    Args:
        reward: The reward.
    """
    if isinstance(reward, SumReward):
        terms = {name: curvature(term) for name, term in reward.term_rewards.items() if reward.term_weights[name]}
        known = [reward.term_weights[name] * q for name, q in terms.items() if q is not None]
        return torch.stack(known).sum(0) if len(known) == len(terms) else None
    if isinstance(reward, QuadraticReward):
        return reward.q.cpu()
    if isinstance(reward, LinearReward):
        return torch.zeros(len(reward.c), len(reward.c), dtype=torch.float64)
    if isinstance(reward, DistanceReward):
        return 2 * torch.eye(reward.reference.numel(), dtype=torch.float64)
    return None


def require_mass(reward: Reward, strength: float, target: Distribution) -> None:
    """Check that the tilt of a Gaussian, or a mixture of Gaussians, by a quadratic reward exists; others pass.

    Args:
        reward: The reward r.
        strength: λ.
        target: The target of the flow.

    Raises:
        FlowportError: Where the tilt has no finite mass.
    """
    q = curvature(reward)
    if q is None or not isinstance(target, Gaussian | Mixture):
        return
    limit = largest_strength(target.components.covariances.cpu(), q)
    if not strength < limit:
        raise FlowportError(
            f"strength={strength:g} has no tilt: p e^(strength · r) has no finite mass, because reward={reward.called} "
            f"grows faster than the density of the target falls; it exists for strengths below {limit:.4g}"
        )


def growth(reward: Reward, x: Tensor) -> float | None:
    """The quadratic growth 2 (r(m + s Lu) − r(m))/s² of a reward far out, largest over directions u, |u| = 1.

    m and LLᵀ are mean and covariance of the points, and s is ``FAR``. e^{λr} outgrows a Gaussian of that covariance iff
    λ times this is above 1. Directions are the axes of L and the largest eigenvector of the average Hessian.

    Args:
        reward: A differentiable reward of points alone.
        x: Points of p, (n, *D).

    Returns:
        None where this is not known: for more than ``WIDEST`` coordinates, points that span no volume, and a reward
        that has no gradient, reads a condition, or is not finite far out.
    """
    flat = x.flatten(1).double()
    d = flat.shape[1]
    if d > WIDEST or not reward.differentiable:
        return None
    factor, failed = torch.linalg.cholesky_ex(torch.cov(flat.T).view(d, d))
    if bool(failed):
        return None
    q = curvature(reward)
    if q is not None:  # known without asking the reward
        return 1 / largest_strength((factor @ factor.mT)[None].cpu(), q)
    mean, eye = flat.mean(0), torch.eye(d, dtype=flat.dtype, device=flat.device)

    def points(u: Tensor) -> Tensor:
        return (mean + FAR * u @ factor.T).view(-1, *x.shape[1:]).to(x.dtype)

    try:
        far, gradient = reward.value_and_gradient(points(torch.cat([eye, -eye])), Condition())
        slope = gradient.flatten(1).double() @ factor
        hessian = (slope[:d] - slope[d:]) / (2 * FAR)
        top = torch.linalg.eigh((hessian + hessian.T) / 2)[1][:, -1:].T
        centre = reward.value(points(0 * top), Condition()).double()
        ends = torch.cat([far.double(), reward.value(points(torch.cat([top, -top])), Condition()).double()])
    except (
        FlowportError,
        RuntimeError,
        AttributeError,
        TypeError,
    ):  # what reads a label, or is not made for such points
        return None
    return float((2 * (ends - centre) / FAR**2).amax())


def warn_of_mass(reward: Reward, strength: float, target: Distribution) -> bool:
    """Say where a reward outgrows a Gaussian of the target's covariance, so that its tilt may have no finite mass.

    Args:
        reward: The reward r, which the target's points have been checked for.
        strength: λ.
        target: The target of the flow.

    Returns:
        Whether it does.
    """
    if reward.learnt or torch.Size(target.event_shape).numel() > WIDEST:
        return False
    found = growth(reward, target.sample(POINTS, torch.Generator().manual_seed(0)).x)
    if found is None or strength * found < 1:
        return False
    logger.warning(
        "reward=%s times strength=%g outgrows a Gaussian of the target's covariance, so the tilt p e^(strength · r) "
        "may have no finite mass, and training then diverges: use a strength below %.3g, or a bounded reward",
        reward.called,
        strength,
        1 / found,
    )
    return True


def require_range(end: Tensor, data: Tensor, strength: float) -> None:
    """Check that results have not left the range of the data, as they do where no tilt exists.

    Args:
        end: Results of the tuned flow, (n, *D).
        data: Points of the target, (m, *D).
        strength: λ, for the message.

    Raises:
        FlowportError: Where the root mean square of the results is ``LEFT`` times that of the data.
    """
    sizes = torch.stack([end.double().square().mean(), data.double().square().mean()]).sqrt()
    if bool(sizes[0] > LEFT * sizes[1].clamp_min(torch.finfo(data.dtype).tiny)):
        raise FlowportError(
            f"results have left the range of the data: their root mean square is {float(sizes[0]):.3g}, that of the "
            f"target {float(sizes[1]):.3g}; at strength={strength:g} the tilt p e^(strength · r) may have no finite "
            "mass: lower the strength, or bound the reward"
        )
