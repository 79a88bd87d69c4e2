"""Loss weights over time and over the log signal-to-noise ratio λ = log(β²/n²).

n is the weight of the noise in x_t: α, or γ on a bridge. At a given x_t the error of every prediction is a multiple of
the error of the noise, so with times of any density each loss is ∫ w(λ) E|ε − ε̂|² dλ with

    w(λ) = density(t) · weight(t) · unit(t) / λ̇(t),      unit = |error of the prediction|² / |error of the noise|².

Two compositions of path, prediction, time sampler and weighting with the same w(λ) have the same loss. A member of
``LogSNRWeighting`` defines w(λ) itself and divides by the other factors.

References:
    Kingma and Gao 2023, "Understanding diffusion objectives as the ELBO with simple data augmentation",
    arXiv:2303.00848.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import softplus

from flowport.errors import Checked, FlowportError
from flowport.field.base import Field
from flowport.objective.time_sampler import TimeSampler
from flowport.prediction.base import MARGIN, FlowState
from flowport.tensors import clamped

LIMIT = MARGIN**-2
"""Largest weight: beyond it, near an end, the error of a prediction does not determine that of the noise."""


class Weighting(Checked, ABC):
    """A weight w(t) ≥ 0 of the loss at time t.

    A member provides ``__call__``.

    To add a member: subclass this class, or ``LogSNRWeighting`` for a weight w(λ), in this module, add
    ``configs/weighting/<name>.yaml`` with ``_target_``, and list it in ``WEIGHTINGS`` of tests/zoo.py.
    """

    @abstractmethod
    def __call__(self, t: Tensor, field: Field, density: Tensor) -> Tensor | None:
        """Weight of each time, (B,); None stands for 1.

        Args:
            t: Times of the field's path, (B,).
            field: The field that is trained, with its path, prediction and conditioning.
            density: Density of the law of t at t, (B,).
        """


class UniformWeighting(Weighting):
    """Constant weight, w = 1."""

    def __call__(self, t: Tensor, field: Field, density: Tensor) -> None:
        return None


class SignalToNoiseWeighting(Weighting):
    """Min-SNR weight for predictions of the target, w(t) = min(β²/n², limit), n = α or γ on a bridge.

    Args:
        limit: Upper bound of the weight, above 0.

    Raises:
        FlowportError: Unless limit > 0.

    References:
        Hang et al. 2023, "Efficient diffusion training via Min-SNR weighting strategy", arXiv:2303.09556.
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
    """The log signal-to-noise ratio λ, its slope λ̇ and the unit of the prediction's squared error.

    The unit is the squared error of the prediction that an error of 1 in the noise causes, by the conversion of the
    prediction at x = 0. All are evaluated at t moved inside (0, 1), where they are finite.

    Args:
        t: Times, (B,).
        field: The field, with its path, prediction and conditioning.

    Returns:
        λ, λ̇ and the unit, each (B,).

    Raises:
        FlowportError: On a bridge whose field does not see its start, where the error of the noise does not determine
            that of the prediction.
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
    """The weight w(λ) that a composition of field, time law and weighting minimises.

    Args:
        t: Times of the field's path, (B,).
        field: The field, with its path, prediction and conditioning.
        density: Density of the law of t at t, (B,).
        weighting: The weighting w(t).

    Returns:
        λ and w(λ), each (B,).
    """
    snr, slope, unit = log_snr(t, field)
    weight = weighting(t, field, density)
    plain = density * unit / slope
    return snr, plain if weight is None else weight * plain


class ScoreMatchingWeighting(Weighting):
    """Denoising score matching for every prediction: w(t) = 1/unit, so the loss is E|ε − ε̂|² = E n² |s − ŝ|².

    The weight is at most ``LIMIT``.

    Raises:
        FlowportError: When called for a field without a score.

    References:
        Vincent 2011, "A connection between score matching and denoising autoencoders", doi:10.1162/NECO_a_00142.
        Song and Ermon 2019, "Generative modeling by estimating gradients of the data distribution", arXiv:1907.05600
        (the weight n²).
    """

    def __call__(self, t: Tensor, field: Field, density: Tensor) -> Tensor:
        field.capabilities.require_score("score matching")
        return (1 / log_snr(t, field)[2]).clamp_max(LIMIT)


class LogSNRWeighting(Weighting, ABC):
    """A weight w(λ): the loss is ∫ w(λ) E|ε − ε̂|² dλ for every path, prediction and law of t with that range of λ.

    The weight of a time is w(λ) λ̇/(unit · density), at most ``LIMIT``. A member provides ``of``; to add one, see
    ``Weighting``.
    """

    @abstractmethod
    def of(self, snr: Tensor) -> Tensor:
        """The weight w(λ) ≥ 0, (B,).

        Args:
            snr: Log signal-to-noise ratio λ, (B,).
        """

    def __call__(self, t: Tensor, field: Field, density: Tensor) -> Tensor:
        snr, slope, unit = log_snr(t, field)
        return (self.of(snr) * slope.clamp_min(0) / (unit * density.clamp_min(1e-6))).clamp_max(LIMIT)


class FlowMatchingWeighting(LogSNRWeighting):
    """Weight of velocities on the linear path, w(λ) = ½ e^(−λ/2) p(t) at t = 1/(1 + e^(−λ/2)), p the density of times.

    Uniform times give flow matching. Logit-normal, mode and cosmap times give the losses of Stable Diffusion 3;
    logit-normal is ½ N(λ/2; mean, scale²)(1 + e^(−λ/2))².

    Args:
        time_sampler: The law with density p; the times of the training may have another.

    References:
        Lipman et al. 2022, "Flow matching for generative modeling", arXiv:2210.02747.
        Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image synthesis", arXiv:2403.03206.
    """

    def __init__(self, time_sampler: TimeSampler) -> None:
        self.time_sampler = time_sampler

    def of(self, snr: Tensor) -> Tensor:
        return 0.5 * torch.exp(-snr / 2) * self.time_sampler.density(torch.sigmoid(snr / 2))


class CosineWeighting(LogSNRWeighting):
    """Weight of v = β ε − α x1 on the trigonometric path with uniform times, w(λ) = e^(−λ/2)/π.

    It is 2/π times the weight of flow matching on the linear path with uniform times.

    References:
        Salimans and Ho 2022, "Progressive distillation for fast sampling of diffusion models", arXiv:2202.00512.
    """

    def of(self, snr: Tensor) -> Tensor:
        return torch.exp(-snr / 2) / math.pi


class EDMWeighting(LogSNRWeighting):
    """Weight of EDM, w(λ) = ½ N(log ς; mean, scale²)(ς² + d²)/d² with ς = e^(−λ/2) and d = ``data_deviation``.

    Args:
        mean: Mean of log ς, ς the noise level.
        scale: Standard deviation of log ς, above 0.
        data_deviation: Standard deviation d of the data, above 0.

    Raises:
        FlowportError: Unless scale and data_deviation are positive.

    References:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364.
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
    """Sigmoid weight, w(λ) = 1/(1 + e^(λ − bias)).

    Args:
        bias: The λ at which the weight is ½; a larger bias puts more weight on small noise.

    References:
        Kingma and Gao 2023, "Understanding diffusion objectives as the ELBO with simple data augmentation",
        arXiv:2303.00848.
        Hoogeboom et al. 2024, "Simpler diffusion (SiD2): 1.5 FID on ImageNet512 with pixel-space diffusion",
        arXiv:2410.19324.
    """

    def __init__(self, bias: float = 0.0) -> None:
        self.bias = bias

    def of(self, snr: Tensor) -> Tensor:
        return torch.sigmoid(self.bias - snr)


class DDPMWeighting(LogSNRWeighting):
    """Weight of DDPM, w(λ) = p(λ) min(1, limit e^(−λ)), p the density of λ on the variance-preserving path.

    p belongs to uniform u = 1 − t. With β² = e^(−B) and B = rate_min u + ½ (rate_max − rate_min) u², it is
    B = log(1 + e^(−λ)) and p = (1 − β²)/(dB/du), and p = 0 beyond u = 1.

    Args:
        limit: Upper bound of the min-SNR weight, above 0; None for the noise error of DDPM, w = p.
        rate_min: Noise rate dB/du at u = 0, above 0.
        rate_max: Noise rate dB/du at u = 1, above ``rate_min``.

    Raises:
        FlowportError: Unless 0 < rate_min < rate_max and limit > 0.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239.
        Hang et al. 2023, "Efficient diffusion training via Min-SNR weighting strategy", arXiv:2303.09556.
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
