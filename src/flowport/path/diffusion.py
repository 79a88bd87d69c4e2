"""The paths of diffusion models, with the data at t = 1."""

import torch
from torch import Tensor

from flowport.errors import Refusal
from flowport.path.base import Path


class Trigonometric(Path):
    """α = cos(πt/2),  β = sin(πt/2): keeps unit variance for independent ends (Albergo & Vanden-Eijnden 2022)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(torch.pi / 2 * t)

    def beta(self, t: Tensor) -> Tensor:
        return torch.sin(torch.pi / 2 * t)


class VariancePreserving(Path):
    """β = exp(−½ ∫ₜ¹ r(1−s) ds) with r(u) = rate_min + (rate_max − rate_min) u,  α = √(1 − β²).

    The diffusion of Song et al. (2021) run towards the data. β(0) > 0: see start_gap. α̇ diverges at t = 1, so the
    interval ends at 1 − margin. Raises Refusal unless 0 < rate_min ≤ rate_max.
    """

    def __init__(self, rate_min: float = 0.1, rate_max: float = 20.0, margin: float = 1e-3) -> None:
        if not 0 < rate_min <= rate_max:
            raise Refusal(f"path=variance_preserving needs 0 < rate_min ≤ rate_max, not {rate_min} and {rate_max}")
        if not 0 < margin < 0.5:
            raise Refusal(f"path.margin={margin} must lie in (0, 0.5): α̇ diverges at t = 1")
        self.rate_min, self.rate_max = rate_min, rate_max
        self.interval = (0.0, 1.0 - margin)

    def _log_beta(self, t: Tensor) -> Tensor:
        u = 1 - t
        return -0.5 * (self.rate_min * u + 0.5 * (self.rate_max - self.rate_min) * u**2)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self._log_beta(t)))

    def beta(self, t: Tensor) -> Tensor:
        return torch.exp(self._log_beta(t))


class VarianceExploding(Path):
    """α = scale (1 − t),  β = 1: noise of size ``scale`` around the data, shrinking linearly (Karras et al. 2022).

    The translator starts from scale · x0, which leaves out x1 itself: start_gap = 1/scale.
    Raises Refusal unless scale > 0.
    """

    def __init__(self, scale: float = 20.0) -> None:
        if scale <= 0:
            raise Refusal(f"path=variance_exploding needs scale > 0, not {scale}")
        self.scale = scale

    def alpha(self, t: Tensor) -> Tensor:
        return self.scale * (1 - t)

    def beta(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)
