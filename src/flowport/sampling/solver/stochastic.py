"""Solvers of dX = drift dt + g dW, and the ancestral sampler."""

import math

import torch
from torch import Tensor

from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import FixedStep, forwards
from flowport.tensors import over


class EulerMaruyama(FixedStep):
    """x + h (v + g²/2 s) + g √|h| ξ. Weak order 1.

    ``noiseless_end``: the last step is an Euler step of the ODE, so that no noise is left in the result.
    """

    order = 1
    stochastic = True

    def __init__(self, noiseless_end: bool = True) -> None:
        self.noiseless_end = noiseless_end

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        at, h = dynamics.times(t, x), s - t
        if last and self.noiseless_end:
            return x + h * dynamics.flow().velocity(x, at)
        assert noise is not None
        return x + h * dynamics.drift(x, at) + math.sqrt(abs(h)) * over(dynamics.diffusion(at), x) * noise


class StochasticHeun(FixedStep):
    """Heun's rule on the drift with the noise g̃ √|h| ξ in both stages, g̃² = (g(t)² + g(s)²)/2.

    Weak order 2 for the additive noise of these SDEs. ``noiseless_end``: the last step is Heun's for the ODE.
    """

    order = 2
    stochastic = True
    calls = 2

    def __init__(self, noiseless_end: bool = True) -> None:
        self.noiseless_end = noiseless_end

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        at, to, h = dynamics.times(t, x), dynamics.times(s, x), s - t
        if last and self.noiseless_end:
            flow = dynamics.flow()
            first = flow.velocity(x, at)
            return x + h / 2 * (first + flow.velocity(x + h * first, to))
        assert noise is not None
        g = torch.sqrt((dynamics.diffusion(at) ** 2 + dynamics.diffusion(to) ** 2) / 2)
        kick = math.sqrt(abs(h)) * over(g, x) * noise
        first = dynamics.drift(x, at)
        return x + h / 2 * (first + dynamics.drift(x + h * first + kick, to)) + kick


class Ancestral(FixedStep):
    """x_s = α_s x̂0 + β_s x̂1 + γ_s ẑ with the noise of weight n partly renewed: n̂ → ρ n̂ + √(1 − ρ²) ξ.

    n is the weight of the path's noise (α and x̂0 where the source is the noise, γ and ẑ on a bridge) and
    ρ = (n_s/β_s)/(n_t/β_t): exactly the law of x_s given x_t and x1 = x̂1 (DDPM, Ho et al. 2020; for a Brownian bridge
    the pinned bridge). No division by a vanishing weight, so it may start at t = 0 and ends in x̂1. Forwards only.
    """

    order = None
    stochastic = True
    needs_score = True

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        forwards("ancestral", t, s)
        assert noise is not None
        flow = dynamics.flow()
        field, role = flow.field, flow.field.capabilities.role
        field.capabilities.require_score("solver=ancestral")
        source, target, z = flow.endpoints(x, dynamics.times(t, x))
        now = field.path.coefficients(field.path.clamp(dynamics.times(t, x)))
        then = field.path.coefficients(field.path.clamp(dynamics.times(s, x)))
        keep = (role.amplitude(then)[0] * now.beta) / (role.amplitude(now)[0] * then.beta).clamp_min(1e-12)
        keep = keep.clamp(0, 1)
        c, kept, fresh = then.over(x), over(keep, x), over(torch.sqrt(1 - keep**2), x)
        if c.gamma is None or z is None:
            mean, old = c.beta * target, source
        else:
            mean, old = c.alpha * source + c.beta * target, z
        if last:
            return target
        return mean + over(role.amplitude(then)[0], x) * (kept * old + fresh * noise)
