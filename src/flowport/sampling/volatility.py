"""The volatility g(t) of a sampler's SDE: a free choice, made after training."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from flowport.capabilities import NoiseRole
from flowport.errors import FlowportError
from flowport.path.base import Path


class Volatility(ABC):
    """stochastic: whether noise is added at all."""

    stochastic: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        """g(t) ≥ 0, (B,), finite on the whole of [0, 1]."""


class ZeroVolatility(Volatility):
    """g = 0: the ODE."""

    stochastic = False

    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        return torch.zeros_like(t)


class ConstantVolatility(Volatility):
    """g = scale."""

    def __init__(self, scale: float = 0.5) -> None:
        if scale <= 0:
            raise FlowportError(f"volatility=constant needs scale > 0, not {scale}: use volatility=zero for the ODE")
        self.scale = scale

    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        return torch.full_like(t, self.scale)


class SineVolatility(Volatility):
    """g = scale · sin(πt): no noise at either end."""

    def __init__(self, scale: float = 1.0) -> None:
        if scale <= 0:
            raise FlowportError(f"volatility=sine needs scale > 0, not {scale}: use volatility=zero for the ODE")
        self.scale = scale

    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        return self.scale * torch.sin(torch.pi * t).clamp_min(0)  # sin(π) rounds below zero


class MemorylessVolatility(Volatility):
    """g² = 2n(n β̇/β − ṅ), n the weight of the noise (α where the source is the noise, γ on a bridge that sees x0).

    The SDE then forgets its noise: X_1 is independent of X_0 (given x0), as adjoint matching needs (Domingo-Enrich
    et al. 2024; for the bridge, given x0). For a Brownian bridge g is its own constant noise. β(0) = 0 makes g
    diverge at t = 0, so t is kept ``offset`` away from both ends; drift and noise use the same g, so the marginals
    stay exact. Raises FlowportError where there is no noise.
    """

    def __init__(self, offset: float = 0.02) -> None:
        if not 0 < offset < 0.5:
            raise FlowportError(f"volatility=memoryless needs an offset in (0, 0.5), not {offset}")
        self.offset = offset

    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        c = path.coefficients(path.clamp(t).clamp(self.offset, 1 - self.offset))
        n, dn = role.amplitude(c)
        return torch.sqrt((2 * n * (n * c.dbeta / c.beta - dn)).clamp_min(0))
