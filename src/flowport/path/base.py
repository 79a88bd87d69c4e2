"""Probability paths: how one pair is joined.

    x_t = α(t) x0 + β(t) x1 + γ(t) z,   z ~ N(0, I),   ẋ_t = α̇ x0 + β̇ x1 + γ̇ z

(stochastic interpolants, Albergo, Boffi & Vanden-Eijnden 2023). A member writes α, β and, for a bridge, γ; the
derivatives follow by automatic differentiation. ``E[ẋ_t | x_t = x]`` carries p_0 to p_1 for any source and coupling.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.tensors import clamped, over
from flowport.types import Pair, Points, Time


@dataclass(frozen=True)
class Coefficients:
    """α, β, γ and their time derivatives, each (B,); gamma and dgamma are None where the path has no noise."""

    alpha: Tensor
    beta: Tensor
    dalpha: Tensor
    dbeta: Tensor
    gamma: Tensor | None = None
    dgamma: Tensor | None = None

    def over(self, x: Tensor) -> "Coefficients":
        """Every coefficient reshaped to multiply points x (B, *D) row by row."""
        some = (self.alpha, self.beta, self.dalpha, self.dbeta, self.gamma, self.dgamma)
        return Coefficients(*(None if c is None else over(c, x) for c in some))  # type: ignore[arg-type]


@dataclass(frozen=True)
class PathSample:
    """A point of the path and all it was made of: t (B,); x, velocity, x0, x1 (B, *D); z (B, *D) or None."""

    t: Tensor
    x: Tensor
    velocity: Tensor
    x0: Tensor
    x1: Tensor
    z: Tensor | None


class Path(ABC):
    """bridge: whether γ > 0 inside (0, 1). interval: the closed part of [0, 1] on which every coefficient and
    derivative is finite and usable; training draws t there and fields are evaluated there."""

    bridge: bool = False
    interval: tuple[float, float] = (0.0, 1.0)

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """α(t), the weight of the source, (B,)."""

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """β(t), the weight of the target, (B,)."""

    def gamma(self, t: Tensor) -> Tensor:
        """γ(t), the weight of the bridge noise, (B,); zero unless a member is a bridge."""
        return torch.zeros_like(t)

    def coefficients(self, t: Time) -> Coefficients:
        """α, β, γ and derivatives at t (B,), by automatic differentiation (also inside inference mode)."""
        with torch.inference_mode(False), torch.enable_grad():
            s = t.detach().clone().requires_grad_()
            values = [self.alpha(s), self.beta(s)] + ([self.gamma(s)] if self.bridge else [])
            slopes = [
                torch.autograd.grad(v.sum(), s, retain_graph=True)[0] if v.requires_grad else torch.zeros_like(s)
                for v in values
            ]
        values = [v.detach() for v in values]
        noise = (values[2], slopes[2]) if self.bridge else (None, None)
        return Coefficients(values[0], values[1], slopes[0], slopes[1], *noise)

    def sample(self, pair: Pair, t: Time, z: Points | None) -> PathSample:
        """x_t and ẋ_t for re-paired points; z (B, *D) standard normal, required iff the path is a bridge."""
        x0, x1 = pair.source.x, pair.target.x
        c = self.coefficients(t).over(x0)
        x = torch.addcmul(c.alpha * x0, c.beta, x1)
        velocity = torch.addcmul(c.dalpha * x0, c.dbeta, x1)
        if c.gamma is not None and c.dgamma is not None:
            assert z is not None, "a bridge needs its noise z"
            x, velocity = x + c.gamma * z, velocity + c.dgamma * z
        return PathSample(t, x, velocity, x0, x1, z)

    def clamp(self, t: Tensor) -> Tensor:
        """t moved into the interval."""
        return clamped(t, *self.interval)

    def start(self, x0: Tensor, z: Tensor) -> Tensor:
        """The law a translation starts from: α(0) x0 + γ(0) z, which is x0 for most paths."""
        zero = torch.zeros(1, dtype=x0.dtype, device=x0.device)
        return self.alpha(zero) * x0 + self.gamma(zero) * z

    @property
    def start_gap(self) -> float:
        """β(0) / α(0): the share of the target that is missing from the drawn start."""
        zero = torch.zeros(1, dtype=torch.float64)
        return float(self.beta(zero).abs() / self.alpha(zero).abs())

    @property
    def end_gap(self) -> float:
        """max(α(1), γ(1)) / β(1): the share of source and noise that is left at the end."""
        one = torch.ones(1, dtype=torch.float64)
        return float(torch.maximum(self.alpha(one).abs(), self.gamma(one).abs()) / self.beta(one).abs())
