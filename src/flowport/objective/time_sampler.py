"""Laws of the training times t.

With a weighting w(t) the loss is ∫ density(t) w(t) E|error|² dt, so only the product of density and weight matters.
Time runs from the source, t = 0, to the target, t = 1; papers on diffusion often have it the other way round.

References:
    Kingma and Gao 2023, "Understanding diffusion objectives as the ELBO with simple data augmentation",
    arXiv:2303.00848.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from flowport.errors import Checked, FlowportError
from flowport.tensors import bisection


class TimeSampler(Checked, ABC):
    """A law of the training times on [0, 1].

    A member provides ``__call__`` and ``density``. The loss is the mean under ``density``. A sampler that draws from
    another law also provides ``importance``, the ratio of the two, and may adapt that law in ``learn``; one with state
    is also an ``nn.Module``.

    To add a member: subclass this class in this module, add ``configs/time_sampler/<name>.yaml`` with ``_target_``, and
    list it in ``TIME_SAMPLERS`` of tests/zoo.py.
    """

    @abstractmethod
    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """Times in [0, 1], float32, (n,), on the device of the generator.

        Args:
            n: Number of times.
            generator: The only source of randomness.
        """

    @abstractmethod
    def density(self, t: Tensor) -> Tensor:
        """Density over [0, 1] of the law under which the loss is a mean, (n,).

        Args:
            t: Times, (n,).
        """

    def importance(self, t: Tensor) -> Tensor | None:
        """Ratio of ``density`` to the density of the drawn times, (n,); None where they are equal.

        Args:
            t: Drawn times, (n,).
        """
        return None

    def learn(self, t: Tensor, loss: Tensor) -> None:
        """Adapt the law of the drawn times to losses; does nothing for a fixed law.

        Args:
            t: Drawn times, (n,).
            loss: Losses at these times, without importance weights, (n,).
        """


class UniformTimeSampler(TimeSampler):
    """Uniform times, t ~ U(0, 1)."""

    def density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, generator=generator, device=generator.device)


class StratifiedTimeSampler(TimeSampler):
    """Stratified uniform times, t_i = (i + u_i)/n in random order with u_i ~ U(0, 1), one in each of n equal cells.

    Each time alone is uniform; the mean over a batch has less variance than with independent times.

    References:
        Kingma et al. 2021, "Variational diffusion models", arXiv:2107.00630 (with one u for all).
    """

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        cell = torch.randperm(n, generator=generator, device=generator.device)
        return (cell + torch.rand(n, generator=generator, device=generator.device)) / n

    def density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class LogitNormalTimeSampler(TimeSampler):
    """Logit-normal times, logit(t) ~ N(mean, scale²).

    Args:
        mean: Mean of logit(t); positive values favour times near the target.
        scale: Standard deviation of logit(t), above 0.

    Raises:
        FlowportError: Unless scale > 0.

    References:
        Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image synthesis", arXiv:2403.03206.
    """

    def __init__(self, mean: float = 0.0, scale: float = 1.0) -> None:
        if scale <= 0:
            raise FlowportError(f"time_sampler=logit_normal needs scale > 0, not {scale}")
        self.mean, self.scale = mean, scale

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(n, generator=generator, device=generator.device)
        return torch.sigmoid(self.mean + self.scale * z)

    def density(self, t: Tensor) -> Tensor:
        logit, slope = torch.logit(t), t * (1 - t)
        bell = torch.exp(-0.5 * ((logit - self.mean) / self.scale) ** 2) / (self.scale * math.sqrt(2 * math.pi))
        return torch.where(slope > 0, bell / slope.clamp_min(1e-12), 0)


class ModeTimeSampler(TimeSampler):
    """Mode sampling, t = u + scale (cos²(πu/2) − 1 + u) with u ~ U(0, 1).

    The density is 1/(1 + scale (1 − (π/2) sin(πu))) at t(u): larger in the middle for scale > 0, at the ends for
    scale < 0.

    Args:
        scale: In [−1, 2/(π − 2)], where t increases with u; 0 is uniform.

    Raises:
        FlowportError: For a scale outside this interval.

    References:
        Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image synthesis", arXiv:2403.03206.
    """

    def __init__(self, scale: float = 1.29) -> None:
        if not -1 <= scale <= 2 / (math.pi - 2):
            raise FlowportError(f"time_sampler=mode needs a scale in [−1, {2 / (math.pi - 2):.2f}], not {scale}")
        self.scale = scale

    def _time(self, u: Tensor) -> Tensor:
        return u + self.scale * (torch.cos(torch.pi / 2 * u) ** 2 - 1 + u)

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        return self._time(torch.rand(n, generator=generator, device=generator.device)).clamp(0, 1)

    def density(self, t: Tensor) -> Tensor:
        u = bisection(self._time, t)
        return (1 / (1 + self.scale * (1 - torch.pi / 2 * torch.sin(torch.pi * u)))).to(t)


class CosmapTimeSampler(TimeSampler):
    """Cosmap times, t = 1 − 1/(1 + tan(πu/2)) with u ~ U(0, 1), of density 2/(π (t² + (1 − t)²)).

    On the linear path log(β²/α²) then has the law that uniform times give it on the trigonometric path.

    References:
        Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image synthesis", arXiv:2403.03206.
    """

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        u = torch.pi / 2 * torch.rand(n, generator=generator, device=generator.device)
        return torch.sin(u) / (torch.sin(u) + torch.cos(u))

    def density(self, t: Tensor) -> Tensor:
        return 2 / (torch.pi * (t**2 + (1 - t) ** 2))


class PowerTimeSampler(TimeSampler):
    """Power-law times, t = u^power with u ~ U(0, 1), of density t^(1/power − 1)/power.

    Args:
        power: Above 0; values above 1 favour times near the source, values below 1 times near the target.

    Raises:
        FlowportError: Unless power > 0.
    """

    def __init__(self, power: float = 2.0) -> None:
        if power <= 0:
            raise FlowportError(f"time_sampler=power needs power > 0, not {power}")
        self.power = power

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, generator=generator, device=generator.device) ** self.power

    def density(self, t: Tensor) -> Tensor:
        return t.clamp_min(1e-12) ** (1 / self.power - 1) / self.power


class BetaTimeSampler(TimeSampler):
    """Beta times, t ~ Beta(a, b), drawn as G_a/(G_a + G_b) from gamma variables.

    Args:
        a: Exponent of the density t^(a − 1) (1 − t)^(b − 1)/B(a, b) at the source, above 0.
        b: Exponent of the density at the target, above 0.

    Raises:
        FlowportError: Unless a > 0 and b > 0.

    References:
        Black et al. 2024, "π₀: a vision-language-action flow model for general robot control", arXiv:2410.24164 (the
        defaults, without its cutoff near the target).
    """

    def __init__(self, a: float = 1.0, b: float = 1.5) -> None:
        if a <= 0 or b <= 0:
            raise FlowportError(f"time_sampler=beta needs a > 0 and b > 0, not a={a}, b={b}")
        self.a, self.b = a, b

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        shape = torch.stack([torch.full((n,), v, device=generator.device) for v in (self.a, self.b)], 1)
        g = torch._standard_gamma(shape, generator=generator)  # the public Distribution takes no generator
        return g[:, 0] / g.sum(1)

    def density(self, t: Tensor) -> Tensor:
        t, total = t.clamp(1e-12, 1 - 1e-7), math.lgamma(self.a + self.b) - math.lgamma(self.a) - math.lgamma(self.b)
        return torch.exp((self.a - 1) * t.log() + (self.b - 1) * torch.log1p(-t) + total)


class AdaptiveTimeSampler(TimeSampler, nn.Module):
    """Importance sampling of times, with a density ∝ √E[ℓ² | t] of the losses ℓ over equal cells of [0, 1].

    The density is estimated in training. Every loss is divided by the density of its time, so the loss is the mean
    under uniform times whatever the estimate, and among piecewise constant densities this one minimises its variance
    (up to ``explore``). The statistics are buffers and are saved in checkpoints.

    Args:
        cells: Number of cells.
        memory: Factor by which a training step multiplies the earlier statistics, in (0, 1).
        explore: Part of the times that is drawn uniformly, in (0, 1).

    Raises:
        FlowportError: For fewer than one cell, and for memory or explore outside (0, 1).

    References:
        Nichol and Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672.
    """

    counts: Tensor
    squares: Tensor

    def __init__(self, cells: int = 32, memory: float = 0.99, explore: float = 0.1) -> None:
        super().__init__()
        if cells < 1 or not 0 < memory < 1 or not 0 < explore < 1:
            raise FlowportError(
                f"time_sampler=adaptive needs cells ≥ 1 and memory and explore in (0, 1), not {cells}, {memory} and "
                f"{explore}"
            )
        self.cells, self.memory, self.explore = cells, memory, explore
        self.register_buffer("counts", torch.zeros(cells))
        self.register_buffer("squares", torch.zeros(cells))

    @property
    def share(self) -> Tensor:
        """Probability of each cell, (cells,); its mean square is shrunk to the average of all by one pseudo-count."""
        average = self.squares.sum() / self.counts.sum().clamp_min(1)
        size = ((self.squares + average) / (self.counts + 1)).clamp_min(1e-20).sqrt()
        return (1 - self.explore) * size / size.sum() + self.explore / self.cells

    def _cell(self, t: Tensor) -> Tensor:
        return (t * self.cells).long().clamp(0, self.cells - 1)

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        u, inside = torch.rand(2, n, generator=generator, device=generator.device)
        cell = torch.searchsorted(self.share.cumsum(0).to(u), u).clamp_max(self.cells - 1)
        return (cell + inside) / self.cells

    def density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def importance(self, t: Tensor) -> Tensor:
        return (1 / (self.cells * self.share))[self._cell(t)].to(t)

    def learn(self, t: Tensor, loss: Tensor) -> None:
        seen = one_hot(self._cell(t), self.cells).to(self.counts)
        # in place, since a CUDA graph updates these tensors
        self.counts.copy_(self.memory * self.counts + seen.sum(0))
        self.squares.copy_(self.memory * self.squares + loss.to(self.counts) ** 2 @ seen)
