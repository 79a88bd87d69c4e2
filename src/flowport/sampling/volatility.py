"""Volatilities g(t) of the generative SDE, which can be chosen freely after training.

References:
    Albergo et al. 2023, "Stochastic interpolants: a unifying framework for flows and diffusions", arXiv:2303.08797.
    Ma et al. 2024, "SiT: exploring flow and diffusion-based generative models with scalable interpolant transformers",
    arXiv:2401.08740.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from flowport.capabilities import NoiseRole
from flowport.errors import Checked, FlowportError
from flowport.path.base import Path


class Volatility(Checked, ABC):
    """Volatility g(t) ≥ 0 of the SDE dX = (v + g²/2 · ∇ log p_t) dt + g dW.

    The marginals p_t are the same for every g; the joint law of X_0 and X_1 depends on it. A member provides
    ``__call__``.

    To add a member: subclass this class in this module, add ``configs/volatility/<name>.yaml`` with ``_target_`` and
    list it in ``VOLATILITIES`` of tests/zoo.py, for tests/laws/test_marginal.py and tests/laws/test_memory.py.

    Attributes:
        stochastic: Whether g is positive anywhere; False for the ODE.
    """

    stochastic: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        """The volatility g(t) ≥ 0, (B,), finite on the whole of [0, 1].

        Args:
            t: Times (B,).
            path: The path of the field.
            role: Which variable of the path is Gaussian noise.
        """


class ZeroVolatility(Volatility):
    """Zero volatility g = 0, for the probability-flow ODE."""

    stochastic = False

    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        return torch.zeros_like(t)


class ConstantVolatility(Volatility):
    """Constant volatility g = scale.

    Args:
        scale: g, > 0.

    Raises:
        FlowportError: Unless scale > 0.
    """

    def __init__(self, scale: float = 0.5) -> None:
        if scale <= 0:
            raise FlowportError(f"volatility=constant needs scale > 0, not {scale}: use volatility=zero for the ODE")
        self.scale = scale

    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        return torch.full_like(t, self.scale)


class SineVolatility(Volatility):
    """Volatility g = scale · sin(πt), which vanishes at both ends.

    Args:
        scale: Maximum of g, at t = ½, > 0.

    Raises:
        FlowportError: Unless scale > 0.
    """

    def __init__(self, scale: float = 1.0) -> None:
        if scale <= 0:
            raise FlowportError(f"volatility=sine needs scale > 0, not {scale}: use volatility=zero for the ODE")
        self.scale = scale

    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        return self.scale * torch.sin(torch.pi * t).clamp_min(0)  # sin(π) rounds below zero


class MemorylessVolatility(Volatility):
    """Memoryless volatility g² = 2n (n β̇/β − ṅ), under which X_1 is independent of X_0.

    n is the weight of the noise: α where the source is the noise, and γ on a bridge, where the independence holds
    given x0 and for a field that sees x0. It holds up to the path's gap at t = 0, where n(0) ε + β(0) x1 stands for
    noise: the correlation with x1 is β(0) d/√(n(0)² + β(0)² d²) for data of deviation d, that is .0066 d for
    ``path=variance_preserving`` and .05 d for ``path=variance_exploding``, and 0 where β(0) = 0. Adjoint matching
    needs this volatility. On a Brownian bridge g is the constant noise of the bridge. Where β(0) = 0, g diverges at
    t = 0; therefore t is moved to a distance ``offset`` from both ends. Drift and noise use the same g, so the
    marginals stay exact.

    A call raises FlowportError for a path without noise.

    Args:
        offset: Least distance of t from 0 and 1, in (0, 0.5).

    Raises:
        FlowportError: For an offset outside (0, 0.5).

    References:
        Domingo-Enrich et al. 2024, "Adjoint matching: fine-tuning flow and diffusion generative models with memoryless
        stochastic optimal control", arXiv:2409.08861.
    """

    def __init__(self, offset: float = 0.02) -> None:
        if not 0 < offset < 0.5:
            raise FlowportError(f"volatility=memoryless needs an offset in (0, 0.5), not {offset}")
        self.offset = offset

    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        c = path.coefficients(path.clamp(t).clamp(self.offset, 1 - self.offset))
        n, dn = role.amplitude(c)
        return torch.sqrt((2 * n * (n * c.dbeta / c.beta - dn)).clamp_min(0))


def memoryless_variances(times: Tensor, path: Path, role: NoiseRole, offset: float | None = None) -> Tensor:
    """Variance rates s²_k = g²((t_k + o)/(1 + 2o)) of a discretised memoryless SDE, (K,), the last one 0.

    g is the memoryless volatility and o the offset, which keeps the rate finite where β = 0. From Gaussian noise on the
    linear path s² = 2(1 − t + o)/(t + o). The last step is noiseless.

    Args:
        times: Times of the steps t_0 … t_K, ascending, (K+1,).
        path: The path of the field.
        role: Which variable of the path is Gaussian noise.
        offset: o; None for the first step.

    References:
        Domingo-Enrich et al. 2024, "Adjoint matching: fine-tuning flow and diffusion generative models with memoryless
        stochastic optimal control", arXiv:2409.08861.
    """
    o = float(times[1] - times[0]) if offset is None else offset
    variances = MemorylessVolatility(offset=1e-4)((times[:-1] + o) / (1 + 2 * o), path, role) ** 2
    variances[-1] = 0.0
    return variances
