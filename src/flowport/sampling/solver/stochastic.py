"""Solvers of the SDE dX = drift dt + g dW, and the ancestral sampler.

References:
    Kloeden and Platen 1992, "Numerical solution of stochastic differential equations", Springer,
    doi:10.1007/978-3-662-12616-5.
"""

import math

import torch
from torch import Tensor

from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import FixedStep, require_forward
from flowport.tensors import over


class EulerMaruyama(FixedStep):
    """Euler-Maruyama method x + h · drift + g √|h| ξ, of weak order 1.

    Args:
        noiseless_end: Whether the last step is Euler's step of the ODE, so that it adds no noise to the result.
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
    """Stochastic Heun method, of weak order 2 for additive noise.

    Heun's rule for the drift, with the noise g̃ √|h| ξ, g̃² = (g(t)² + g(s)²)/2, in the second stage and in the step.

    Args:
        noiseless_end: Whether the last step is Heun's step of the ODE, so that it adds no noise to the result.
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
    """Ancestral sampler of DDPM, on any path with a score.

        x_s = α_s x̂0 + β_s x̂1 + γ_s ẑ     with the noise replaced by     ε̂ → ρ ε̂ + √(1 − ρ²) ξ,   ξ ~ N(0, I).

    ε̂ is the predicted noise of the path and n its weight: x̂0 and α where the source is the noise, ẑ and γ on a bridge.
    With ρ = (n_s/β_s)/(n_t/β_t) this is the law of x_s given x_t and x1 = x̂1, as in DDPM; on a Brownian bridge it is
    the pinned bridge. It divides by no vanishing weight, so it may start at t = 0. The last step returns x̂1. Forwards
    only.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239.
    """

    order = None
    stochastic = True
    needs_score = True

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        require_forward("ancestral", t, s)
        assert noise is not None
        flow = dynamics.flow()
        field, role = flow.field, flow.field.capabilities.role
        field.capabilities.require_score("solver=ancestral")
        source, target, z = flow.endpoints(x, dynamics.times(t, x))
        now = field.path.coefficients(field.path.clamp(dynamics.times(t, x)))
        then = field.path.coefficients(field.path.clamp(dynamics.times(s, x)))
        rho = (role.amplitude(then)[0] * now.beta) / (role.amplitude(now)[0] * then.beta).clamp_min(1e-12)
        rho = rho.clamp(0, 1)
        c, correlation, renewal = then.over(x), over(rho, x), over(torch.sqrt(1 - rho**2), x)
        if c.gamma is None or z is None:
            mean, predicted = c.beta * target, source
        else:
            mean, predicted = c.alpha * source + c.beta * target, z
        if last:
            return target
        return mean + over(role.amplitude(then)[0], x) * (correlation * predicted + renewal * noise)
