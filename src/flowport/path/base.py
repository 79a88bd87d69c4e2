"""Probability paths between the points of a pair (spatially linear stochastic interpolants).

    x_t = α(t) x0 + β(t) x1 + γ(t) z,    ẋ_t = α̇ x0 + β̇ x1 + γ̇ z,    z ~ N(0, I) independent of (x0, x1).

The velocity E[ẋ_t | x_t = x] transports p_0 to p_1 for any source and coupling.

References:
    Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        arXiv:2303.08797.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.errors import Checked
from flowport.tensors import clamped, over
from flowport.types import Pair, Points, Time


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of a path and their time derivatives at times (B,).

    Args:
        alpha: α, (B,), the weight of the source.
        beta: β, (B,), the weight of the target.
        dalpha: α̇, (B,).
        dbeta: β̇, (B,).
        gamma: γ, (B,), the weight of the noise; None where the path has none.
        dgamma: γ̇, (B,); None where the path has no noise.
    """

    alpha: Tensor
    beta: Tensor
    dalpha: Tensor
    dbeta: Tensor
    gamma: Tensor | None = None
    dgamma: Tensor | None = None

    def over(self, x: Tensor) -> "Coefficients":
        """Every coefficient reshaped to multiply points row by row.

        Args:
            x: Points, (B, *D).

        Returns:
            Coefficients of shape (B, 1, …, 1).
        """
        values = (self.alpha, self.beta, self.dalpha, self.dbeta, self.gamma, self.dgamma)
        return Coefficients(*(None if c is None else over(c, x) for c in values))  # type: ignore[arg-type]


@dataclass(frozen=True)
class PathSample:
    """A point of the path with the variables it is computed from.

    Args:
        t: Times, (B,).
        x: Points x_t, (B, *D).
        velocity: Conditional velocities ẋ_t, (B, *D).
        x0: Source points, (B, *D).
        x1: Target points, (B, *D).
        z: Noise, (B, *D); None where the path has none.
    """

    t: Tensor
    x: Tensor
    velocity: Tensor
    x0: Tensor
    x1: Tensor
    z: Tensor | None


class Path(Checked, ABC):
    """A probability path x_t = α(t) x0 + β(t) x1 + γ(t) z, given by its coefficients.

    A member provides ``alpha``, ``beta`` and, for a bridge, ``gamma``: functions of t (B,) that act on each element
    alone and are differentiable by autograd, which yields the derivatives. It may override ``coefficients`` by closed
    forms. α(0), β(1) > 0 and β/α increases. β(0) and α(1), γ(1) vanish up to ``start_gap`` and ``end_gap``.

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py``, add
    ``configs/path/<name>.yaml`` with ``_target_`` and list it in ``PATHS`` of tests/zoo.py, over which the tests of
    tests/laws run.

    Attributes:
        bridge: Whether the path has noise, γ > 0 inside (0, 1).
        interval: The closed part of [0, 1] on which every coefficient and derivative is finite and usable. Training
            draws t there, and fields are evaluated there.
    """

    bridge: bool = False
    interval: tuple[float, float] = (0.0, 1.0)

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The weight α(t) of the source, (B,).

        Args:
            t: Times, (B,).
        """

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """The weight β(t) of the target, (B,).

        Args:
            t: Times, (B,).
        """

    def gamma(self, t: Tensor) -> Tensor:
        """The weight γ(t) of the noise, (B,); zero unless a member overrides it.

        Args:
            t: Times, (B,).
        """
        return torch.zeros_like(t)

    def coefficients(self, t: Time) -> Coefficients:
        """α, β, γ and their derivatives, by automatic differentiation (also in inference mode).

        Args:
            t: Times, (B,), inside the interval.
        """
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
        """Points x_t of the path and their conditional velocities ẋ_t.

        Args:
            pair: Source and target points after the coupling, B rows.
            t: Times, (B,).
            z: Standard normal noise, (B, *D), for a bridge; otherwise None.
        """
        x0, x1 = pair.source.x, pair.target.x
        c = self.coefficients(t).over(x0)
        x = torch.addcmul(c.alpha * x0, c.beta, x1)
        velocity = torch.addcmul(c.dalpha * x0, c.dbeta, x1)
        if c.gamma is not None and c.dgamma is not None:
            assert z is not None, "a bridge needs its noise z"
            x, velocity = x + c.gamma * z, velocity + c.dgamma * z
        return PathSample(t, x, velocity, x0, x1, z)

    def clamp(self, t: Tensor) -> Tensor:
        """The times moved into the interval.

        Args:
            t: Times, (B,).
        """
        return clamped(t, *self.interval)

    def start(self, x0: Tensor, z: Tensor) -> Tensor:
        """The start x_0 of a translation, α(0) x0 + γ(0) z, which is x0 for most paths.

        Args:
            x0: Source points, (B, *D).
            z: Standard normal noise, (B, *D).
        """
        zero = torch.zeros(1, dtype=x0.dtype, device=x0.device)
        return self.alpha(zero) * x0 + self.gamma(zero) * z

    @property
    def start_gap(self) -> float:
        """β(0) / α(0), the relative weight of the target that ``start`` leaves out."""
        zero = torch.zeros(1, dtype=torch.float64)
        return float(self.beta(zero).abs() / self.alpha(zero).abs())

    @property
    def end_gap(self) -> float:
        """max(α(1), γ(1)) / β(1), the relative weight of source and noise at t = 1."""
        one = torch.ones(1, dtype=torch.float64)
        return float(torch.maximum(self.alpha(one).abs(), self.gamma(one).abs()) / self.beta(one).abs())
