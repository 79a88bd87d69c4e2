"""The law of training times.

With a weighting w(t) the loss is ∫ density(t) w(t) |error|² dt: only the product counts.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from flowport.errors import Refusal


class TimeSampler(ABC):
    @abstractmethod
    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        """n times in [0, 1], float32, shape (n,), on the generator's device."""


class Uniform(TimeSampler):
    """t ~ U(0, 1)."""

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, generator=generator, device=generator.device)


class Stratified(TimeSampler):
    """t_i = (i + u_i)/n in random order: uniform in law, with one time in each of n equal cells of the batch."""

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        cell = torch.randperm(n, generator=generator, device=generator.device)
        return (cell + torch.rand(n, generator=generator, device=generator.device)) / n


class LogitNormal(TimeSampler):
    """logit(t) ~ N(mean, scale²) (Esser et al. 2024). Raises Refusal unless scale > 0."""

    def __init__(self, mean: float = 0.0, scale: float = 1.0) -> None:
        if scale <= 0:
            raise Refusal(f"time_sampler=logit_normal needs scale > 0, not {scale}")
        self.mean, self.scale = mean, scale

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(n, generator=generator, device=generator.device)
        return torch.sigmoid(self.mean + self.scale * z)


class Power(TimeSampler):
    """t = u^power, u ~ U(0, 1): density t^(1/power − 1)/power, so power > 1 favours times near the source."""

    def __init__(self, power: float = 2.0) -> None:
        if power <= 0:
            raise Refusal(f"time_sampler=power needs power > 0, not {power}")
        self.power = power

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, generator=generator, device=generator.device) ** self.power


class Beta(TimeSampler):
    """t ~ Beta(a, b), drawn as G_a/(G_a + G_b) with gamma variables. Raises Refusal unless a, b > 0."""

    def __init__(self, a: float = 1.0, b: float = 1.5) -> None:
        if a <= 0 or b <= 0:
            raise Refusal(f"time_sampler=beta needs a > 0 and b > 0, not a={a}, b={b}")
        self.a, self.b = a, b

    def __call__(self, n: int, generator: torch.Generator) -> Tensor:
        shape = torch.tensor([self.a, self.b], device=generator.device).expand(n, 2).contiguous()
        g = torch._standard_gamma(shape, generator=generator)  # the public Distribution takes no generator
        return g[:, 0] / g.sum(1)
