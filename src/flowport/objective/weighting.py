"""Loss weights over time, and over the log signal-to-noise ratio λ = log(β²/n²).

n is the weight of the noise in x_t: α, or γ on a bridge. At a given x_t every prediction's error is a multiple of that
of the noise, so with t of any density each loss is ∫ w(λ) E|ε − ε̂|² dλ with

    w(λ) = density(t) · weight(t) · unit(t) / λ̇(t),      unit = |error of the prediction|² / |error of the noise|²,

and two compositions of path, prediction, time sampler and weighting with the same w(λ) have the same loss (Kingma &
Gao 2023). A member ``LogSNRWeighting`` writes w(λ) itself and divides by the rest.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import softplus

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.objective.time_sampler import TimeSampler
from flowport.prediction.base import MARGIN, FlowState
from flowport.tensors import clamped

LIMIT = MARGIN**-2
"""The largest weight: beyond it, near an end, the error of a prediction says nothing of the noise."""


class Weighting(ABC):
    @abstractmethod
    def __call__(self, t: Tensor, field: Field, density: Tensor) -> Tensor | None:
        """Weight of each time of the field's path, (B,); None for 1. density: of the law of t, (B,)."""


class UniformWeighting(Weighting):
    """w = 1."""

    def __call__(self, t: Tensor, field: Field, density: Tensor) -> None:
        return None


class SignalToNoiseWeighting(Weighting):
    """w = min(SNR, limit), SNR = β²/α² (β²/γ² on a bridge): the min-SNR weight of Hang et al. (2023) for target error.

    Raises FlowportError unless limit > 0.
    """

    def __init__(self, limit: float = 5.0) -> None:
        if limit <= 0:
            raise FlowportError(f"weighting=signal_to_noise needs limit > 0, not {limit}")
        self.limit = limit

    def __call__(self, t: Tensor, field: Field, density: Tensor) -> Tensor:
        coefficients = field.path.coefficients(t)
        noise = coefficients.alpha if coefficients.gamma is None else coefficients.gamma
        # min(β²/n², limit) without a division by zero: β² ≥ limit n² decides.
        signal, floor = coefficients.beta**2, noise**2
        return torch.where(signal >= self.limit * floor, self.limit, signal / floor.clamp_min(1e-12))


def log_snr(t: Tensor, field: Field) -> tuple[Tensor, Tensor, Tensor]:
    """λ, λ̇ and the unit of the prediction's squared error, each (B,), at t moved inside (0, 1), where they are finite.

    The unit is the answer of the prediction's own algebra to a noise that is wrong by 1 at x = 0. Raises
    FlowportError on a
    bridge that does not see its start: there the error of the noise does not determine the others.
    """
    if field.path.bridge and not field.conditioning.sees_source:
        raise FlowportError(
            "a weighting over the log-SNR needs a path without noise, or conditioning=source: on a bridge that does "
            "not see its start two errors are independent; use weighting=uniform"
        )
    c = field.path.coefficients(clamped(field.path.clamp(t), MARGIN, 1 - MARGIN))
    n, dn = (c.alpha, c.dalpha) if c.gamma is None or c.dgamma is None else (c.gamma, c.dgamma)
    zero, one = torch.zeros_like(n)[:, None], torch.ones_like(n)[:, None]
    velocity = (dn - c.dbeta * n / c.beta)[:, None]  # E[x1 | x] is then wrong by −n/β
    flow_state = FlowState(zero, velocity, one if field.path.bridge else None)
    error = field.prediction.output(flow_state, c, zero if field.path.bridge else None)
    slope = 2 * (c.dbeta / c.beta - dn / n)
    return 2 * (c.beta / n).log(), slope, error.square().mean(1)


def profile(t: Tensor, field: Field, density: Tensor, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """λ and the w(λ) that a composition minimises, each (B,), at times t of the field's path with the given density."""
    snr, slope, unit = log_snr(t, field)
    weight = weighting(t, field, density)
    plain = density * unit / slope
    return snr, plain if weight is None else weight * plain


class ScoreMatchingWeighting(Weighting):
    """weight = 1/unit: the loss is E_t E|ε − ε̂|² = E_t n² |s − ŝ|², denoising score matching, whatever the prediction.

    Vincent (2011), with the weight n² of Song & Ermon (2019). Raises FlowportError for a field without a score.
    """

    def __call__(self, t: Tensor, field: Field, density: Tensor) -> Tensor:
        field.capabilities.require_score("score matching")
        return (1 / log_snr(t, field)[2]).clamp_max(LIMIT)


class LogSNRWeighting(Weighting, ABC):
    """The loss is ∫ w(λ) E|ε − ε̂|² dλ for every path, prediction and law of t that reaches the same λ."""

    @abstractmethod
    def of(self, snr: Tensor) -> Tensor:
        """w(λ) ≥ 0 at λ (B,)."""

    def __call__(self, t: Tensor, field: Field, density: Tensor) -> Tensor:
        snr, slope, unit = log_snr(t, field)
        return (self.of(snr) * slope.clamp_min(0) / (unit * density.clamp_min(1e-6))).clamp_max(LIMIT)


class FlowMatchingWeighting(LogSNRWeighting):
    """w(λ) = ½ e^(−λ/2) p(t) at t = 1/(1 + e^(−λ/2)): errors of velocity on the linear path, with times of density p.

    Uniform times are flow matching (Lipman et al. 2022); logit-normal, mode and cosmap are those of SD3 (Esser et al.
    2024), where logit-normal gives ½ N(λ/2; mean, scale²)(1 + e^(−λ/2))².
    """

    def __init__(self, time_sampler: TimeSampler) -> None:
        self.time_sampler = time_sampler

    def of(self, snr: Tensor) -> Tensor:
        return 0.5 * torch.exp(-snr / 2) * self.time_sampler.density(torch.sigmoid(snr / 2))


class CosineWeighting(LogSNRWeighting):
    """w(λ) = e^(−λ/2)/π: errors of v = β ε − α x1 on the trigonometric path with uniform times (Salimans & Ho 2022).

    Flow matching on the linear path, up to the factor 2/π.
    """

    def of(self, snr: Tensor) -> Tensor:
        return torch.exp(-snr / 2) / math.pi


class EDMWeighting(LogSNRWeighting):
    """w(λ) = ½ N(log ς; mean, scale²)(ς² + d²)/d², ς = e^(−λ/2), d = ``data_deviation`` (Karras et al. 2022).

    Raises FlowportError unless scale and data_deviation are positive.
    """

    def __init__(self, mean: float = -1.2, scale: float = 1.2, data_deviation: float = 0.5) -> None:
        if scale <= 0 or data_deviation <= 0:
            raise FlowportError(
                f"weighting=edm needs scale > 0 and data_deviation > 0, not {scale} and {data_deviation}"
            )
        self.mean, self.scale, self.data_deviation = mean, scale, data_deviation

    def of(self, snr: Tensor) -> Tensor:
        bell = torch.exp(-0.5 * ((-snr / 2 - self.mean) / self.scale) ** 2) / (self.scale * math.sqrt(2 * math.pi))
        return 0.5 * bell * (1 + torch.exp(-snr) / self.data_deviation**2)


class SigmoidWeighting(LogSNRWeighting):
    """w(λ) = 1/(1 + e^(λ − bias)) (Kingma & Gao 2023; Hoogeboom et al. 2024)."""

    def __init__(self, bias: float = 0.0) -> None:
        self.bias = bias

    def of(self, snr: Tensor) -> Tensor:
        return torch.sigmoid(self.bias - snr)


class DDPMWeighting(LogSNRWeighting):
    """w(λ) = p(λ) min(1, limit e^(−λ)), p the density of λ on path=variance_preserving with uniform times.

    limit = null is the ε error of Ho et al. (2020), a number the min-SNR weight of Hang et al. (2023). With
    β² = e^(−B), B = rate_min u + ½ (rate_max − rate_min) u²: B = log(1 + e^(−λ)) and p = (1 − β²)/(dB/du), 0 beyond
    u = 1. Raises FlowportError unless 0 < rate_min < rate_max and limit > 0.
    """

    def __init__(self, limit: float | None = None, rate_min: float = 0.1, rate_max: float = 20.0) -> None:
        if not 0 < rate_min < rate_max or (limit is not None and limit <= 0):
            raise FlowportError(
                f"weighting=ddpm needs 0 < rate_min < rate_max and limit > 0, not {rate_min}, {rate_max} and {limit}"
            )
        self.limit, self.rate_min, self.rate_max = limit, rate_min, rate_max

    def of(self, snr: Tensor) -> Tensor:
        decay = softplus(-snr)  # B
        speed = (self.rate_min**2 + 2 * (self.rate_max - self.rate_min) * decay).sqrt()  # dB/du
        density = torch.where(speed <= self.rate_max, torch.sigmoid(-snr) / speed, 0)
        return density if self.limit is None else density * (self.limit * torch.exp(-snr)).clamp_max(1)
