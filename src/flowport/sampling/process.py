"""Diffusion processes in R^d whose law is known in closed form at every time, as reference for solvers and scores.

References:
    Pavliotis 2014, "Stochastic processes and applications: diffusion processes, the Fokker-Planck and Langevin
    equations", Springer, doi:10.1007/978-1-4939-1323-7.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from flowport.capabilities import SourceIsNoise
from flowport.distribution.mixture import GaussianComponents, Mixture
from flowport.errors import FlowportError
from flowport.path.base import Path
from flowport.sampling.dynamics import Process
from flowport.sampling.volatility import MemorylessVolatility
from flowport.tensors import over


class ClosedFormProcess(Process):
    """Process in R^d whose law at every time is a known mixture of Gaussians, if it begins with ``law(begin)``.

    A member provides ``drift``, ``diffusion`` and ``law``. They must satisfy the Fokker-Planck equation

        ∂p/∂t = −∇·(b p) ± ½ g² Δp,

    with + where begin < end and − where the process runs backwards in time.

    To add a member: subclass this class in this module, add ``configs/process/<name>.yaml`` with ``_target_`` and list
    it in ``PROCESSES`` of tests/zoo.py; tests/sampling/test_process.py checks the equation.

    Attributes:
        begin: Time at which the process begins.
        end: Time at which it ends; below ``begin`` for a process that runs backwards.
    """

    begin: float = 0.0
    end: float = 1.0

    @abstractmethod
    def law(self, t: float) -> GaussianComponents:
        """The law of X_t.

        Args:
            t: A time between ``begin`` and ``end``.
        """


class AffineProcess(ClosedFormProcess):
    """Process with the transition X_t | X_begin = x ~ N(factor · x + shift, variance · I).

    It maps a mixture of Gaussians to a mixture of Gaussians. A member provides ``transition`` instead of ``law``.

    Args:
        start: The law of X_begin.
    """

    def __init__(self, start: Mixture) -> None:
        self.start = start.components

    @abstractmethod
    def transition(self, t: float) -> tuple[float, float, float]:
        """(factor, shift, variance) of the transition from ``begin`` to t.

        Args:
            t: A time between ``begin`` and ``end``.
        """

    def law(self, t: float) -> GaussianComponents:
        factor, shift, variance = self.transition(t)
        start = self.start
        spread = factor**2 * start.covariances + variance * torch.eye(start.means.shape[1]).to(start.means)
        return GaussianComponents.of(start.weights, factor * start.means + shift, spread, start.means.dtype)


class BrownianProcess(AffineProcess):
    """Brownian motion dX = scale dW, with X_t | X_0 = x ~ N(x, scale² t I).

    Args:
        start: The law of X_0.
        scale: Diffusion coefficient, > 0.

    Raises:
        FlowportError: Unless scale > 0.
    """

    def __init__(self, start: Mixture, scale: float = 1.0) -> None:
        super().__init__(start)
        self.scale = _positive("brownian", "scale", scale)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.scale)

    def transition(self, t: float) -> tuple[float, float, float]:
        return 1.0, 0.0, self.scale**2 * t


class OrnsteinUhlenbeckProcess(AffineProcess):
    """Ornstein-Uhlenbeck process dX = −rate (X − mean) dt + scale dW.

        X_t | X_0 = x ~ N(mean + e^(−rate t) (x − mean), scale² (1 − e^(−2 rate t))/(2 rate) I)

    Its stationary law is N(mean, scale²/(2 rate) I).

    Args:
        start: The law of X_0.
        rate: Rate of reversion to the mean, > 0.
        mean: Mean of the stationary law, the same in every coordinate.
        scale: Diffusion coefficient, > 0.

    Raises:
        FlowportError: Unless rate > 0 and scale > 0.

    References:
        Uhlenbeck and Ornstein 1930, "On the theory of the Brownian motion", doi:10.1103/PhysRev.36.823.
    """

    def __init__(self, start: Mixture, rate: float = 4.0, mean: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(start)
        self.rate, self.mean = _positive("ornstein_uhlenbeck", "rate", rate), mean
        self.scale = _positive("ornstein_uhlenbeck", "scale", scale)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -self.rate * (x - self.mean)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.scale)

    def transition(self, t: float) -> tuple[float, float, float]:
        factor = math.exp(-self.rate * t)
        return factor, (1 - factor) * self.mean, -(self.scale**2) * math.expm1(-2 * self.rate * t) / (2 * self.rate)


class LangevinProcess(ClosedFormProcess):
    """Overdamped Langevin dynamics dX = ½ scale² ∇ log p(X) dt + scale dW, begun in its stationary law p.

    Args:
        start: The stationary law p.
        scale: Diffusion coefficient, > 0.

    Raises:
        FlowportError: Unless scale > 0.
    """

    def __init__(self, start: Mixture, scale: float = 1.0) -> None:
        self.stationary, self.scale = start.components, _positive("langevin", "scale", scale)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * self.scale**2 * self.stationary.score(x)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.scale)

    def law(self, t: float) -> GaussianComponents:
        return self.stationary


class NoisingProcess(AffineProcess):
    """Forward noising process of a diffusion model, from data at t = 1 to noise at t = 0.

    Along a path x_t = α x0 + β x1 whose source x0 is the noise,

        dX = (β̇/β) X dt + g dW,  g² = 2α (α β̇/β − α̇),  X_t | X_1 = x ~ N((β_t/β_1) x, (α_t² − (β_t/β_1)² α_1²) I).

    It equals the backward dynamics of any field on this path with volatility=memoryless.

    Args:
        start: The law of the data X_1.
        path: A path without noise of its own.
        offset: Distance from 0 and 1 to which times are moved in the drift and the diffusion, as for the volatility.

    Raises:
        FlowportError: For a bridge path.

    References:
        Song et al. 2021, "Score-based generative modeling through stochastic differential equations",
        arXiv:2011.13456.
        Domingo-Enrich et al. 2024, "Adjoint matching: fine-tuning flow and diffusion generative models with memoryless
        stochastic optimal control", arXiv:2409.08861.
    """

    begin, end = 1.0, 0.0

    def __init__(self, start: Mixture, path: Path, offset: float = 1e-3) -> None:
        super().__init__(start)
        if path.bridge:
            raise FlowportError("a noising process needs a path whose source is its only noise, not a bridge")
        self.path, self.volatility = path, MemorylessVolatility(offset)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        offset = self.volatility.offset
        c = self.path.coefficients(self.path.clamp(t).clamp(offset, 1 - offset)).over(x)
        return c.dbeta / c.beta * x

    def diffusion(self, t: Tensor) -> Tensor:
        return self.volatility(t, self.path, SourceIsNoise())

    def transition(self, t: float) -> tuple[float, float, float]:
        times = torch.tensor([self.begin, t], dtype=torch.float64)
        (alpha_begin, alpha), (beta_begin, beta) = self.path.alpha(times).tolist(), self.path.beta(times).tolist()
        return beta / beta_begin, 0.0, alpha**2 - (beta / beta_begin * alpha_begin) ** 2


class ReverseProcess(ClosedFormProcess):
    """Time reversal of a known process, with the drift b ∓ g² ∇ log p_t and the exact score.

    The sign is − where the reversed process itself runs forwards in time, and + where it runs backwards.

    Args:
        process: The process to reverse, of drift b and diffusion g.

    References:
        Anderson 1982, "Reverse-time diffusion equation models", doi:10.1016/0304-4149(82)90051-5.
    """

    def __init__(self, process: ClosedFormProcess) -> None:
        self.process, self.begin, self.end = process, process.end, process.begin
        self.sign = -1.0 if process.begin < process.end else 1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        score = self.law(float(t[0])).score(x)  # all rows of a solver's step have one time
        return self.process.drift(x, t) + self.sign * over(self.diffusion(t) ** 2, x) * score

    def diffusion(self, t: Tensor) -> Tensor:
        return self.process.diffusion(t)

    def law(self, t: float) -> GaussianComponents:
        return self.process.law(t)


def _positive(process: str, key: str, value: float) -> float:
    if value <= 0:
        raise FlowportError(f"process={process} needs {key} > 0, not {value}")
    return value
