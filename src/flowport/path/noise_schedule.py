"""The paths of diffusion models, with the data at t = 1."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path
from flowport.types import Time


class TrigonometricPath(Path):
    """α = cos(πt/2),  β = sin(πt/2): keeps unit variance for independent ends (Albergo & Vanden-Eijnden 2022)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(torch.pi / 2 * t)

    def beta(self, t: Tensor) -> Tensor:
        return torch.sin(torch.pi / 2 * t)


class VariancePreservingPath(Path):
    """β = exp(−½ ∫ₜ¹ r(1−s) ds) with r(u) = rate_min + (rate_max − rate_min) u,  α = √(1 − β²).

    The diffusion of Song et al. (2021) run towards the data. β(0) > 0: see start_gap. α̇ diverges at t = 1, so the
    interval ends at 1 − margin. Raises FlowportError unless 0 < rate_min ≤ rate_max.
    """

    def __init__(self, rate_min: float = 0.1, rate_max: float = 20.0, margin: float = 1e-3) -> None:
        if not 0 < rate_min <= rate_max:
            raise FlowportError(
                f"path=variance_preserving needs 0 < rate_min ≤ rate_max, not {rate_min} and {rate_max}"
            )
        if not 0 < margin < 0.5:
            raise FlowportError(f"path.margin={margin} must lie in (0, 0.5): α̇ diverges at t = 1")
        self.rate_min, self.rate_max = rate_min, rate_max
        self.interval = (0.0, 1.0 - margin)

    def _log_beta(self, t: Tensor) -> Tensor:
        u = 1 - t
        return -0.5 * (self.rate_min * u + 0.5 * (self.rate_max - self.rate_min) * u**2)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self._log_beta(t)))

    def beta(self, t: Tensor) -> Tensor:
        return torch.exp(self._log_beta(t))


class VarianceExplodingPath(Path):
    """α = scale (1 − t),  β = 1: noise of size ``scale`` around the data, shrinking linearly (Karras et al. 2022).

    The translator starts from scale · x0, which leaves out x1 itself: start_gap = 1/scale.
    Raises FlowportError unless scale > 0.
    """

    def __init__(self, scale: float = 20.0) -> None:
        if scale <= 0:
            raise FlowportError(f"path=variance_exploding needs scale > 0, not {scale}")
        self.scale = scale

    def alpha(self, t: Tensor) -> Tensor:
        return self.scale * (1 - t)

    def beta(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class DiffusionPath(Path):
    """The path of a diffusion dX = f X du + g dW away from the data, u = 1 − t, by its drift f(t) and diffusion g(t):

        β(t) = exp ∫ₜ¹ f ds,     α² = β² ∫ₜ¹ g²/β² ds,     β̇ = −f β,     α̇ = −f α − g²/(2α)

    (Song et al. 2021, with time turned round). drift, diffusion: callables of t (B,), smooth on ``interval``.
    Integrals by Gauss and Legendre's rule with NODES nodes. ``flowport.sampling.diffusion_form`` has the way back.
    """

    NODES = 24

    def __init__(
        self,
        drift: Callable[[Tensor], Tensor],
        diffusion: Callable[[Tensor], Tensor],
        interval: tuple[float, float] = (0.0, 1.0 - 1e-3),
    ) -> None:
        self.drift, self.diffusion, self.interval = drift, diffusion, interval

    def _integral(self, rate: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
        """∫ₜ¹ rate ds, float64, in the shape of t."""
        nodes, weights = (torch.from_numpy(v).to(t.device) for v in np.polynomial.legendre.leggauss(self.NODES))
        half = (1 - t.double().flatten()[:, None]) / 2
        times = 1 - half * (1 - nodes)
        return (half * weights * rate(times.flatten()).view_as(times)).sum(1).view_as(t)

    def beta(self, t: Tensor) -> Tensor:
        return self._integral(self.drift, t).exp().to(t)

    def alpha(self, t: Tensor) -> Tensor:
        def gained(s: Tensor) -> Tensor:
            return self.diffusion(s) ** 2 * torch.exp(-2 * self._integral(self.drift, s))

        return self.beta(t) * self._integral(gained, t).sqrt().to(t)

    def coefficients(self, t: Time) -> Coefficients:
        alpha, beta, f, g = self.alpha(t), self.beta(t), self.drift(t), self.diffusion(t)
        return Coefficients(alpha, beta, -f * alpha - g**2 / (2 * alpha), -f * beta)


class TabulatedPath(Path):
    """β = √(1/(1 + e^(−λ))), α = √(1/(1 + e^λ)), λ through a table of a discrete diffusion's steps, noise first in t.

    alphas_cumprod (N,): β² of step 0, nearest to the data (t = 1), to step N − 1 (t = 0), as a scheduler of diffusers
    has it: step k is t = 1 − k/(N − 1). Between the steps λ is the monotone cubic of Fritsch & Carlson (1980), so β/α
    increases everywhere. Neither end is reached: see start_gap and end_gap.
    Raises FlowportError unless the table has two steps or more and falls strictly inside (0, 1).
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        table = alphas_cumprod.detach().double().cpu()
        if len(table) < 2 or not bool((table.diff() < 0).all() and table[0] < 1 and table[-1] > 0):
            raise FlowportError(
                "a discrete diffusion becomes a path where its alphas_cumprod has two steps or more and falls strictly "
                "inside (0, 1): schedules that are rescaled to zero terminal SNR do not"
            )
        self.steps = len(table)
        self.cubics = torch.from_numpy(PchipInterpolator(range(self.steps), torch.logit(table).numpy()).c.copy())

    def timestep(self, t: Tensor) -> Tensor:
        """The step k = (1 − t)(N − 1) at t, a whole number at the table's own steps."""
        return (1 - t) * (self.steps - 1)

    def log_snr(self, t: Tensor) -> Tensor:
        """λ(t) = log β²/α², (B,)."""
        k = self.timestep(t)
        left = k.detach().floor().long().clamp(0, self.steps - 2)
        rest, value = k - left, torch.zeros_like(k)
        for row in self.cubics.to(t):
            value = value * rest + row[left]
        return value

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-self.log_snr(t)).sqrt()

    def beta(self, t: Tensor) -> Tensor:
        return torch.sigmoid(self.log_snr(t)).sqrt()
