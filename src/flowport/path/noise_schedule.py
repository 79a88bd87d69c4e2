"""Paths of diffusion models, with the source (noise) at t = 0 and the data at t = 1.

References:
    Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456.
    Albergo and Vanden-Eijnden 2022, "Building Normalizing Flows with Stochastic Interpolants", arXiv:2209.15571.
    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv:2206.00364.
    Ho, Jain and Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path
from flowport.types import Time


class TrigonometricPath(Path):
    """Trigonometric path α = cos(πt/2), β = sin(πt/2) of Albergo and Vanden-Eijnden (2022).

    It has unit variance at all times for independent ends of unit variance.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(torch.pi / 2 * t)

    def beta(self, t: Tensor) -> Tensor:
        return torch.sin(torch.pi / 2 * t)


class VariancePreservingPath(Path):
    """Variance-preserving path β = exp(−½ ∫ₜ¹ r(1−s) ds), α = √(1 − β²) of Song et al. (2021).

    r(u) = rate_min + (rate_max − rate_min) u is the noise rate of the diffusion at u = 1 − t from the data. β(0) > 0,
    see ``start_gap``. α̇ diverges at t = 1, so the interval ends at 1 − margin.

    Args:
        rate_min: Noise rate at the data, > 0.
        rate_max: Noise rate at the source, ≥ rate_min.
        margin: Distance of the interval from t = 1, in (0, 0.5).

    Raises:
        FlowportError: When a rate or ``margin`` is out of its range.
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
    """Variance-exploding path α = scale (1 − t), β = 1, with the linear noise level of Karras et al. (2022).

    A translation starts from scale · x0, without the x1 of the path: start_gap = 1/scale.

    Args:
        scale: Noise level at t = 0, > 0, for a source of unit variance.

    Raises:
        FlowportError: When ``scale`` is not positive.
    """

    def __init__(self, scale: float = 20.0) -> None:
        if scale <= 0:
            raise FlowportError(f"path=variance_exploding needs scale > 0, not {scale}")
        self.scale = scale

    def alpha(self, t: Tensor) -> Tensor:
        return self.scale * (1 - t)

    def beta(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@cache  # of every device, so that no step copies them anew
def _quadrature(nodes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre quadrature over [-1, 1], float64."""
    with torch.inference_mode(False):
        place, weight = (torch.from_numpy(v).to(device) for v in np.polynomial.legendre.leggauss(nodes))
    return place, weight


class DiffusionPath(Path):
    """Path of a linear diffusion dX = f X du + g dW from the data, u = 1 − t (Song et al. 2021).

    Its coefficients are those of the conditional law given the data, with a standard normal source:

        β(t) = exp ∫ₜ¹ f ds,     α² = β² ∫ₜ¹ g²/β² ds,     β̇ = −f β,     α̇ = −f α − g²/(2α).

    Integrals use Gauss-Legendre quadrature with ``NODES`` nodes. The inverse map, from a path to f and g, is
    :func:`flowport.sampling.diffusion_form`.

    Args:
        drift: f as a function of t, (B,) → (B,), smooth on ``interval``.
        diffusion: g as a function of t, (B,) → (B,), smooth on ``interval``.
        interval: Closed part of [0, 1] on which the path is used; α̇ diverges at t = 1.

    Attributes:
        NODES: Number of quadrature nodes.
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
        nodes, weights = _quadrature(self.NODES, t.device)
        half = (1 - t.double().flatten()[:, None]) / 2
        times = 1 - half * (1 - nodes)
        return (half * weights * rate(times.flatten()).view_as(times)).sum(1).view_as(t)

    def beta(self, t: Tensor) -> Tensor:
        return self._integral(self.drift, t).exp().to(t)

    def alpha(self, t: Tensor) -> Tensor:
        def integrand(s: Tensor) -> Tensor:
            return self.diffusion(s) ** 2 * torch.exp(-2 * self._integral(self.drift, s))

        return self.beta(t) * self._integral(integrand, t).sqrt().to(t)

    def coefficients(self, t: Time) -> Coefficients:
        alpha, beta, f, g = self.alpha(t), self.beta(t), self.drift(t), self.diffusion(t)
        return Coefficients(alpha, beta, -f * alpha - g**2 / (2 * alpha), -f * beta)


class TabulatedPath(Path):
    """Path of a discrete diffusion: β² = sigmoid(λ), α² = sigmoid(−λ), λ interpolated from a table.

    Step k of the table is t = 1 − k/(N − 1), so that step 0 is nearest to the data. Between the steps λ = log β²/α² is
    the monotone cubic of Fritsch and Butland (scipy's PCHIP), so β/α increases everywhere. Neither end is reached
    exactly, see ``start_gap`` and ``end_gap``.

    Args:
        alphas_cumprod: β² at steps 0, …, N − 1, (N,), as in a scheduler of diffusers.

    Raises:
        FlowportError: When the table has fewer than two steps, or does not decrease strictly inside (0, 1).

    References:
        Fritsch and Butland 1984, "A method for constructing local monotone piecewise cubic interpolants",
            doi:10.1137/0905021.
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
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def _cubics_like(self, t: Tensor) -> Tensor:
        """The coefficients on the device and in the dtype of t, which are copied once."""
        kind = t.device, t.dtype
        if kind not in self._copies:
            with torch.inference_mode(False):
                self._copies[kind] = self.cubics.to(t)
        return self._copies[kind]

    def timestep(self, t: Tensor) -> Tensor:
        """The step k = (1 − t)(N − 1), (B,), a whole number at the steps of the table.

        Args:
            t: Times, (B,).
        """
        return (1 - t) * (self.steps - 1)

    def log_snr(self, t: Tensor) -> Tensor:
        """The log signal-to-noise ratio λ(t) = log β²/α², (B,).

        Args:
            t: Times, (B,).
        """
        k = self.timestep(t)
        knot = k.detach().floor().long().clamp(0, self.steps - 2)
        offset, value = k - knot, torch.zeros_like(k)
        for row in self._cubics_like(t):
            value = value * offset + row[knot]
        return value

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-self.log_snr(t)).sqrt()

    def beta(self, t: Tensor) -> Tensor:
        return torch.sigmoid(self.log_snr(t)).sqrt()
