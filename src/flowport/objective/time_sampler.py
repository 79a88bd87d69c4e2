"""The law of training times.

With a weighting w(t) the loss is ∫ density(t) w(t) |error|² dt: only the product counts.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from flowport.errors import FlowportError
from flowport.tensors import bisection


class TimeSampler(ABC):
    @abstractmethod
    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """n times in [0, 1], float32, shape (n,), on the generator's device."""

    @abstractmethod
    def density(self, t: Tensor) -> Tensor:
        """Density over [0, 1] of the law in which the loss is a mean, at t (n,)."""

    def importance(self, t: Tensor) -> Tensor | None:
        """``density`` over the density of the times that are drawn, (n,); None where they are the same."""
        return None

    def learn(self, t: Tensor, loss: Tensor) -> None:  # noqa: B027  (most samplers have nothing to learn)
        """Told of the losses (n,) found at drawn times (n,), for samplers that draw by importance."""


class UniformTimeSampler(TimeSampler):
    """t ~ U(0, 1)."""

    def density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, generator=generator, device=generator.device)


class StratifiedTimeSampler(TimeSampler):
    """t_i = (i + u_i)/n in random order: uniform in law, with one time in each of n equal cells of the batch."""

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        cell = torch.randperm(n, generator=generator, device=generator.device)
        return (cell + torch.rand(n, generator=generator, device=generator.device)) / n

    def density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class LogitNormalTimeSampler(TimeSampler):
    """logit(t) ~ N(mean, scale²) (Esser et al. 2024). Raises FlowportError unless scale > 0."""

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
    """t = u + scale (cos²(πu/2) − 1 + u), u ~ U(0, 1): more weight in the middle for scale > 0, at the ends below.

    The mode sampling of Esser et al. (2024, SD3), whose default is 1.29. Raises FlowportError unless −1 ≤ scale ≤
    2/(π − 2),
    where t increases with u.
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
    """t = 1 − 1/(1 + tan(πu/2)), u ~ U(0, 1), of density 2/(π (t² + (1 − t)²)).

    On the linear path log(β²/α²) then has the law that the trigonometric path gives it (Esser et al. 2024, SD3).
    """

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        u = torch.pi / 2 * torch.rand(n, generator=generator, device=generator.device)
        return torch.sin(u) / (torch.sin(u) + torch.cos(u))

    def density(self, t: Tensor) -> Tensor:
        return 2 / (torch.pi * (t**2 + (1 - t) ** 2))


class PowerTimeSampler(TimeSampler):
    """t = u^power, u ~ U(0, 1): density t^(1/power − 1)/power, so power > 1 favours times near the source."""

    def __init__(self, power: float = 2.0) -> None:
        if power <= 0:
            raise FlowportError(f"time_sampler=power needs power > 0, not {power}")
        self.power = power

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, generator=generator, device=generator.device) ** self.power

    def density(self, t: Tensor) -> Tensor:
        return t.clamp_min(1e-12) ** (1 / self.power - 1) / self.power


class BetaTimeSampler(TimeSampler):
    """t ~ Beta(a, b), drawn as G_a/(G_a + G_b) with gamma variables. Raises FlowportError unless a, b > 0."""

    def __init__(self, a: float = 1.0, b: float = 1.5) -> None:
        if a <= 0 or b <= 0:
            raise FlowportError(f"time_sampler=beta needs a > 0 and b > 0, not a={a}, b={b}")
        self.a, self.b = a, b

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        shape = torch.tensor([self.a, self.b], device=generator.device).expand(n, 2).contiguous()
        g = torch._standard_gamma(shape, generator=generator)  # the public Distribution takes no generator
        return g[:, 0] / g.sum(1)

    def density(self, t: Tensor) -> Tensor:
        t, total = t.clamp(1e-12, 1 - 1e-7), math.lgamma(self.a + self.b) - math.lgamma(self.a) - math.lgamma(self.b)
        return torch.exp((self.a - 1) * t.log() + (self.b - 1) * torch.log1p(-t) + total)


class AdaptiveTimeSampler(TimeSampler, nn.Module):
    """Times drawn where losses ℓ are large: density ∝ √E[ℓ² | t] over equal cells of [0, 1], learnt while training.

    Every loss is divided by the density of its time, so the mean is that of uniform times whatever has been learnt,
    and of all densities this one gives it the least variance (importance sampling; Nichol & Dhariwal 2021).
    memory: what a step keeps of the counts before it; explore: the share of times that stays uniform. The counts are
    buffers, kept in checkpoints. Raises FlowportError for cells < 1, or memory or explore outside (0, 1).
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
        """The probability of each cell, (cells,): a cell is taken for average as long as it has been seen little."""
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
        self.counts = self.memory * self.counts + seen.sum(0)
        self.squares = self.memory * self.squares + loss.to(self.counts) ** 2 @ seen
