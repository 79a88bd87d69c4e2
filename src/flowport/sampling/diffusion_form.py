"""Diffusion form and flow form of one process, and the conversion between them.

A diffusion model is written dX = f X du + g dW away from the data (u = 1 − t), and sampled by

    dX = (−f X + (1 + η²)/2 · g² s) dt + η g dW,     s = ∇ log p_t,

with the churn η, which is 0 for the probability-flow ODE and 1 for the reverse SDE. A flow is written
x_t = α x0 + β x1 and sampled by dX = (v + w²/2 · s) dt + w dW with a volatility w. They are the same where

    f = −β̇/β,     g² = 2α (α β̇/β − α̇),     w = η g,     v = −f x + g²/2 · s,

so η = 1 is the memoryless volatility.

References:
    Song et al. 2021, "Score-based generative modeling through stochastic differential equations", arXiv:2011.13456.
    Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.capabilities import NoiseRole
from flowport.errors import FlowportError
from flowport.path.base import Path
from flowport.path.noise_schedule import DiffusionPath
from flowport.sampling.volatility import Volatility

Rate = Callable[[Tensor], Tensor]
"""A function of times t (B,), with the data at t = 1."""


@dataclass(frozen=True)
class DiffusionForm:
    """A diffusion dX = f X du + g dW away from the data, u = 1 − t, with the churn η of its sampler.

    Args:
        drift: f(t).
        diffusion: g(t) ≥ 0.
        churn: η(t) ≥ 0.
    """

    drift: Rate
    diffusion: Rate
    churn: Rate


class ChurnVolatility(Volatility):
    """Volatility w = η(t) g(t) of a diffusion form.

    Args:
        form: The diffusion form.
    """

    def __init__(self, form: DiffusionForm) -> None:
        self.form = form

    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        t = path.clamp(t)
        return self.form.churn(t) * self.form.diffusion(t)


def diffusion_form(path: Path, volatility: Volatility, role: NoiseRole) -> DiffusionForm:
    """The diffusion form f = −β̇/β, g² = 2α (α β̇/β − α̇), η = w/g of a flow form.

    Where g = 0, η is set to 0.

    Args:
        path: The path, without noise of its own.
        volatility: w(t).
        role: Which variable of the path is Gaussian noise.

    Raises:
        FlowportError: For a bridge path.
    """
    if path.bridge:
        raise FlowportError("a bridge has no diffusion form: its x_t is no linear diffusion of x1 alone")

    def drift(t: Tensor) -> Tensor:
        c = path.coefficients(t)
        return -c.dbeta / c.beta

    def diffusion(t: Tensor) -> Tensor:
        c = path.coefficients(t)
        return (2 * c.alpha * (c.alpha * c.dbeta / c.beta - c.dalpha)).clamp_min(0).sqrt()

    def churn(t: Tensor) -> Tensor:
        g = diffusion(t)
        return torch.where(g > 0, volatility(t, path, role) / g.clamp_min(1e-30), 0)

    return DiffusionForm(drift, diffusion, churn)


def flow_form(form: DiffusionForm, interval: tuple[float, float] = (0.0, 1.0 - 1e-3)) -> tuple[Path, Volatility]:
    """The path and the volatility w = η g of a diffusion form.

    Args:
        form: The diffusion form.
        interval: The part of [0, 1] on which f and g are finite.
    """
    return DiffusionPath(form.drift, form.diffusion, interval), ChurnVolatility(form)
