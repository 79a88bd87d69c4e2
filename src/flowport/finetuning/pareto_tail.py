"""The Pareto shape of the largest importance weights, which says whether a mean over them can be trusted.

References:
    Zhang and Stephens 2009, "A new and efficient estimation method for the generalized Pareto distribution",
        doi:10.1198/tech.2009.08017.
    Vehtari, Simpson, Gelman, Yao and Gabry 2015, "Pareto smoothed importance sampling", arXiv:1507.02646.
"""

import math

import torch
from torch import Tensor

LEAST_WEIGHTS = 100
"""Number of weights below which no shape is estimated."""
LEAST_TAIL = 5
"""Number of different weights of the tail from which its shape is estimated."""
TIED = 1e-9
"""Excess over the threshold, as a share of the largest weight, below which a weight of the tail is tied with it."""


def pareto_shape(log_weights: Tensor) -> Tensor:
    """Shape k̂ of a generalised Pareto law fitted to the largest min(S/5, 3√S) of S weights, (…).

    Of weights with a tail of shape k all moments of order below 1/k are finite: for k > ½ their variance is infinite,
    for k > 1 their mean. Excesses x over the largest weight outside the tail have the profile likelihood of Zhang and
    Stephens, of which the posterior mean b̂ is taken over their grid of candidates,

        k̂ = mean log(1 − b̂ x).

    A tail whose weights are all tied is bounded, k̂ = −1; one that holds fewer than 5 weights above the ties has no
    shape to estimate, k̂ = ∞.

    Args:
        log_weights: Log weights up to a constant, (…, S), S ≥ 100.

    Raises:
        ValueError: For fewer than 100 weights.
    """
    n = log_weights.shape[-1]
    if n < LEAST_WEIGHTS:
        raise ValueError(f"the shape of a tail needs {LEAST_WEIGHTS} weights, not {n}")
    m = min(n // 5, math.ceil(3 * n**0.5))
    log_w = log_weights.double()
    tail = (log_w - log_w.amax(-1, keepdim=True)).topk(m + 1, sorted=True).values.exp().flip(-1)
    x = tail[..., 1:] - tail[..., :1]  # ascending
    above = x > TIED
    count = above.sum(-1)
    quartile = (m - count + (count / 4 + 0.5).long() - 1).clamp(0, m - 1)
    x_quartile = torch.where(count > 0, x.gather(-1, quartile[..., None])[..., 0], 1.0).clamp_min(TIED)[..., None]
    candidates = 30 + int(m**0.5)
    grid = torch.arange(1, candidates + 1, dtype=x.dtype, device=x.device) - 0.5
    b = (1 - (candidates / grid).sqrt()) / (3 * x_quartile) + 1 / x[..., -1:].clamp_min(TIED)
    shapes = _shape(b[..., None] * x[..., None, :], above[..., None, :])
    profile = count[..., None] * ((-b / shapes).log() - shapes - 1)
    best = (profile.nan_to_num(-torch.inf).softmax(-1) * b).sum(-1)
    k = _shape(best[..., None] * x, above)
    return torch.where(count == 0, -1.0, torch.where(count < LEAST_TAIL, torch.inf, k))


def _shape(product: Tensor, above: Tensor) -> Tensor:
    """Mean of log(1 − b x) over the excesses that are no ties, (…)."""
    return (torch.log1p(-product) * above).sum(-1) / above.sum(-1).clamp_min(1)


def largest_shape(weights: int) -> float:
    """Largest k̂ at which a mean over S weights is called reliable, min(0.7, 1 − 1/log₁₀ S).

    Args:
        weights: Number S of weights.
    """
    return min(0.7, 1 - 1 / math.log10(max(weights, 11)))
