"""Divergences of vector fields, exact or estimated by random directions.

    ∇·v = E Σ_k ξ_kᵀ (∂v/∂x) ξ_k     for directions with     E Σ_k ξ_k ξ_kᵀ = I

All unit vectors give the trace of the Jacobian itself, random directions Hutchinson's estimate of it.

References:
    Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
    doi:10.1080/03610919008812866.
    Grathwohl et al. 2019, "FFJORD: free-form continuous dynamics for scalable reversible generative models",
    arXiv:1810.01367.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from flowport.errors import Checked, FlowportError


class Divergence(Checked, ABC):
    """Divergence ∇·v by vector-Jacobian products along directions ξ_k.

    A member provides ``directions`` with E Σ_k ξ_k ξ_kᵀ = I. They are drawn once per trajectory, so that the integrand
    is a smooth function of time.

    To add a member: subclass this class in this module, add ``configs/divergence/<name>.yaml`` with ``_target_`` and
    list it in ``DIVERGENCES`` of tests/zoo.py, for tests/laws/test_likelihood.py.

    Args:
        chunk: Number of vector-Jacobian products computed at once, at least 1; fewer need less memory.

    Raises:
        FlowportError: For a chunk below 1.
    """

    def __init__(self, chunk: int = 64) -> None:
        if chunk < 1:
            raise FlowportError(f"divergence.chunk is {chunk}; it must be at least 1")
        self.chunk = chunk

    @abstractmethod
    def directions(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The directions ξ, (K, B, *D), or (K, 1, *D) where all points share them.

        Args:
            x: Points (B, *D), which determine shape, dtype and device.
            generator: The only source of randomness.
        """

    def value_and_divergence(
        self, velocity: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """v(x), (B, *D), and Σ_k ξ_kᵀ (∂v/∂x) ξ_k, (B,).

        Args:
            velocity: v, (B, *D) -> (B, *D); row b of its value must depend on row b of its argument only.
            x: Points (B, *D).
            directions: ξ, (K, B, *D) or (K, 1, *D).
        """
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
    """Exact divergence, along all unit vectors ξ_k = e_k, k = 1 … d, with d products per evaluation.

    Args:
        chunk: Number of vector-Jacobian products computed at once.
    """

    def directions(self, x: Tensor, generator: torch.Generator) -> Tensor:
        d = x[0].numel()
        return torch.eye(d, dtype=x.dtype, device=x.device).view(d, 1, *x.shape[1:])


class Hutchinson(Divergence):
    """Hutchinson's unbiased estimate along ξ_k = ζ_k/√K, with K independent ζ of mean 0 and covariance I.

    A member provides the law of ζ in ``noise``.

    Args:
        probes: Number of random directions K, at least 1, with one product per evaluation each.
        chunk: Number of vector-Jacobian products computed at once.

    Raises:
        FlowportError: For fewer than 1 probe.
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
        """Independent numbers of mean 0 and variance 1.

        Args:
            shape: Shape of the result, (K, B, *D).
            generator: The only source of randomness, whose device the result is on.
        """


@final
class RademacherDivergence(Hutchinson):
    """Hutchinson's estimate with ζ = ±1, each with probability ½.

    Its variance is 2 Σ_{i≠j} J̃_ij²/K, J̃ the symmetric part of the Jacobian; it is exact for d = 1.

    Args:
        probes: Number of random directions K.
        chunk: Number of vector-Jacobian products computed at once.
    """

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return 2 * torch.randint(2, shape, generator=generator, device=generator.device) - 1


@final
class GaussianDivergence(Hutchinson):
    """Hutchinson's estimate with ζ ~ N(0, I).

    Its variance is 2 |J̃|²/K, J̃ the symmetric part of the Jacobian and |·| the Frobenius norm.

    Args:
        probes: Number of random directions K.
        chunk: Number of vector-Jacobian products computed at once.
    """

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device)
