"""Stochastic processes whose law is known at every time: what a solver is taught and tested on."""

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


class KnownProcess(Process):
    """A process in R^d with the law ``law(t)``, a mixture of Gaussians, if it begins with ``law(begin)``.

    begin, end: the times between which it runs, begin > end for one that runs backwards.
    """

    begin: float = 0.0
    end: float = 1.0

    @abstractmethod
    def law(self, t: float) -> GaussianComponents:
        """The law of X_t."""


class AffineProcess(KnownProcess):
    """X_t | X_begin = x is N(factor · x + shift, variance · I), so the start's mixture stays one."""

    def __init__(self, start: Mixture) -> None:
        self.start = start.components

    @abstractmethod
    def transition(self, t: float) -> tuple[float, float, float]:
        """(factor, shift, variance) from ``begin`` to t."""

    def law(self, t: float) -> GaussianComponents:
        factor, shift, variance = self.transition(t)
        start = self.start
        spread = factor**2 * start.covariances + variance * torch.eye(start.means.shape[1]).to(start.means)
        return GaussianComponents.of(start.weights, factor * start.means + shift, spread, start.means.dtype)


class BrownianProcess(AffineProcess):
    """dX = scale dW: X_t = X_0 + N(0, scale² t)."""

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
    """dX = −rate (X − mean) dt + scale dW: X_t | x ~ N(mean + e^(−rate t) (x − mean), s² (1 − e^(−2 rate t))/(2 rate)),
    s the scale (Uhlenbeck & Ornstein 1930). Stationary law N(mean, scale²/(2 rate)).
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


class LangevinProcess(KnownProcess):
    """dX = ½ scale² ∇log p(X) dt + scale dW, overdamped: p is its stationary law, with which it begins."""

    def __init__(self, start: Mixture, scale: float = 1.0) -> None:
        self.stationary, self.scale = start.components, _positive("langevin", "scale", scale)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * self.scale**2 * self.stationary.score(x)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.scale)

    def law(self, t: float) -> GaussianComponents:
        return self.stationary


class NoisingProcess(AffineProcess):
    """The forward process of diffusion, which turns data into noise: from t = 1 to 0 along a path whose source is noise

        dX = (β̇/β) X dt + g dW,  g² = 2α (α β̇/β − α̇),  X_t | X_1 = x ~ N((β_t/β_1) x, α_t² − (β_t/β_1)² α_1²)

    (Song et al. 2021, with the data at t = 1): every field's dynamics backwards with volatility=memoryless. offset as
    there. Raises FlowportError for a bridge.
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
        (first, alpha), (whole, beta) = self.path.alpha(times).tolist(), self.path.beta(times).tolist()
        return beta / whole, 0.0, alpha**2 - (beta / whole * first) ** 2


class ReverseProcess(KnownProcess):
    """The same process seen backwards in time (Anderson 1982): the drift becomes b ∓ g² ∇log p_t, − where the process
    itself runs forwards, and p_t is exact."""

    def __init__(self, process: KnownProcess) -> None:
        self.process, self.begin, self.end = process, process.end, process.begin
        self.sign = -1.0 if process.begin < process.end else 1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        score = self.law(float(t[0])).score(x)  # a solver's step has one time
        return self.process.drift(x, t) + self.sign * over(self.diffusion(t) ** 2, x) * score

    def diffusion(self, t: Tensor) -> Tensor:
        return self.process.diffusion(t)

    def law(self, t: float) -> GaussianComponents:
        return self.process.law(t)


def _positive(process: str, key: str, value: float) -> float:
    if value <= 0:
        raise FlowportError(f"process={process} needs {key} > 0, not {value}")
    return value
