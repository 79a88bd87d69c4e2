"""Diffusion form and flow form of one process, both ways.

A diffusion model is written dX = f X du + g dW away from the data (u = 1 − t), and sampled by

    dX = (−f X + (1 + η²)/2 · g² s) dt + η g dW,     s = ∇ log p_t,

with churn η: 0 the probability-flow ODE, 1 the reverse SDE (Song et al. 2021; Karras et al. 2022). A flow is written
x_t = α x0 + β x1 and sampled by dX = (v + w²/2 · s) dt + w dW with a volatility w. They are the same where

    f = −β̇/β,     g² = 2α (α β̇/β − α̇),     w = η g,     v = −f x + g²/2 · s,

so η = 1 is the memoryless volatility.
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
"""A function of t (B,), in our time: the data at 1."""


@dataclass(frozen=True)
class DiffusionForm:
    """drift f(t), diffusion g(t) ≥ 0 and churn η(t) ≥ 0."""

    drift: Rate
    diffusion: Rate
    churn: Rate


class ChurnVolatility(Volatility):
    """w = η(t) g(t) of a diffusion form."""

    def __init__(self, form: DiffusionForm) -> None:
        self.form = form

    def __call__(self, t: Tensor, path: Path, role: NoiseRole) -> Tensor:
        t = path.clamp(t)
        return self.form.churn(t) * self.form.diffusion(t)


def diffusion_form(path: Path, volatility: Volatility, role: NoiseRole) -> DiffusionForm:
    """From the flow form. Where g = 0 there is no churn, and η is 0. Raises FlowportError for a bridge."""
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
    """From the diffusion form; ``interval`` is where f and g are finite."""
    return DiffusionPath(form.drift, form.diffusion, interval), ChurnVolatility(form)
