"""Divergences of vector fields: ∇·v = E Σ_k ξ_kᵀ (∂v/∂x) ξ_k for directions with E Σ_k ξ_k ξ_kᵀ = I.

All unit vectors give the trace itself, random directions Hutchinson's estimate of it (Hutchinson 1990; FFJORD,
Grathwohl et al. 2019). A member says which directions; the products stand once, here.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from flowport.errors import FlowportError


class Divergence(ABC):
    """chunk: vector–Jacobian products made at once; fewer take less memory. Raises FlowportError for fewer than 1."""

    def __init__(self, chunk: int = 64) -> None:
        if chunk < 1:
            raise FlowportError(f"divergence.chunk is {chunk}; it must be at least 1")
        self.chunk = chunk

    @abstractmethod
    def directions(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """ξ of points x (B, *D): (K, B, *D), or (K, 1, *D) where all points share them. Drawn once a trajectory, so
        that what a solver integrates is a smooth function of time."""

    def along(self, velocity: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """v(x), (B, *D), and Σ_k ξ_kᵀ (∂v/∂x) ξ_k, (B,), where row b of ``velocity(x)`` depends on row b of x alone."""
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            v = velocity(point) + 0 * point  # a field need not depend on x
        total, parts = x.new_zeros(len(x)), directions.split(self.chunk)
        for k, part in enumerate(parts):
            rows = part.expand(-1, *x.shape)
            (pulled,) = torch.autograd.grad(v, point, rows, retain_graph=k + 1 < len(parts), is_grads_batched=True)
            total += (pulled * rows).flatten(2).sum((0, 2))
        return v.detach(), total


@final
class ExactDivergence(Divergence):
    """ξ_k = e_k, k = 1 … d: the trace, for d products at every evaluation."""

    def directions(self, x: Tensor, generator: torch.Generator) -> Tensor:
        d = x[0].numel()
        return torch.eye(d, dtype=x.dtype, device=x.device).view(d, 1, *x.shape[1:])


class Hutchinson(Divergence):
    """ξ_k = ζ_k/√K with K independent ``probes`` ζ of mean 0 and covariance I: unbiased, K products an evaluation.

    Raises FlowportError for fewer than 1 probe.
    """

    def __init__(self, probes: int = 1, chunk: int = 64) -> None:
        super().__init__(chunk)
        if probes < 1:
            raise FlowportError(f"divergence.probes is {probes}; it must be at least 1")
        self.probes = probes

    def directions(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.noise((self.probes, *x.shape), generator).to(x) / math.sqrt(self.probes)

    @abstractmethod
    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Independent numbers of mean 0 and variance 1."""


@final
class RademacherDivergence(Hutchinson):
    """ζ = ±1, each with probability ½: variance 2 Σ_{i≠j} J̃_ij², J̃ the symmetric Jacobian; none for d = 1."""

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return 2 * torch.randint(2, shape, generator=generator, device=generator.device) - 1


@final
class GaussianDivergence(Hutchinson):
    """ζ ~ N(0, I): variance 2 |J̃|², J̃ the symmetric part of the Jacobian."""

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device)
