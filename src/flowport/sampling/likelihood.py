"""The density of what an ODE generates, by the instantaneous change of variables (Chen et al. 2018):

    log p1(x1) = log p0(x0) − ∫₀¹ ∇·v(x_t, t) dt,   ẋ = v(x, t) from x0 to x1,

integrated backwards from x1 as one state (x, ℓ) with ℓ̇ = ∇·v, ℓ(1) = 0, by any solver that reads a velocity alone.
p0 is the law from which translations start: α(0) x0 with x0 from the source.
"""

import math
from functools import partial

import torch
from torch import Tensor

from flowport.conditioning import SourceLabelConditioning
from flowport.distribution.base import Density, Distribution
from flowport.errors import FlowportError, option
from flowport.field.base import Field
from flowport.field.guidance.reward_guidance import RewardGuidance
from flowport.sampling.divergence import Divergence
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import Grid
from flowport.sampling.solver.adaptive import Dopri5
from flowport.sampling.solver.base import Solver
from flowport.sampling.solver.runge_kutta import RungeKutta
from flowport.sampling.volatility import ZeroVolatility
from flowport.types import Condition, Sample


class AugmentedDynamics(Dynamics):
    """Points like x (B, *D) as rows (B, d + 1) of (x, ℓ), ℓ̇ = ∇·v along directions kept for the whole way."""

    def __init__(
        self, field: Field, condition: Condition, divergence: Divergence, x: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__(field, condition, ZeroVolatility())
        self.divergence, self.shape, self.directions = divergence, x.shape, divergence.directions(x, generator)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        point = x[:, :-1].view(self.shape)
        v, slope = self.divergence.along(partial(super().velocity, t=t), point, self.directions)
        return torch.cat([v.flatten(1), slope[:, None]], 1)


class Likelihood:
    """log p1 of points under a field. grid: of the solver, run backwards; chunk: points integrated at once.

    Raises FlowportError where the start law has no density, the field sees more of the start than a point tells, or its
    output cannot be differentiated, and for solvers that do more than read a velocity.
    """

    def __init__(
        self, field: Field, source: Distribution, solver: Solver, grid: Grid, divergence: Divergence, chunk: int = 256
    ) -> None:
        if not isinstance(source, Density):
            raise FlowportError(
                f"a likelihood needs a source with a density, which {type(source).__name__} does not have: train with "
                "distribution@source=gaussian, mixture or eight_gaussians"
            )
        if bool(field.path.gamma(torch.zeros(1)) > 0):
            raise FlowportError(
                f"a likelihood needs the density of the start, which {option('path', field.path)} blurs "
                "with noise: use a path whose noise vanishes at t = 0"
            )
        if field.conditioning.sees_source or isinstance(field.conditioning, SourceLabelConditioning):
            raise FlowportError(
                "a likelihood starts from the end alone, but this field sees its start or the start's label: use "
                "conditioning=unconditional or target_label"
            )
        if isinstance(field, RewardGuidance):
            raise FlowportError(
                "a likelihood needs a divergence, and guidance by a reward has none: use the unguided field"
            )
        if not isinstance(solver, RungeKutta | Dopri5):
            raise FlowportError(
                f"{option('solver', solver)} cannot integrate a likelihood: use an ODE solver, "
                "solver=euler, midpoint, heun, rk4 or dopri5"
            )
        self.field, self.source, self.solver, self.grid = field, source, solver, grid
        self.divergence, self.chunk = divergence, chunk

    @torch.no_grad()
    def log_prob(self, target: Sample, generator: torch.Generator) -> tuple[Tensor, int]:
        """log p1(x | label) in nats, (n,), of points target.x (n, *D), and evaluations of the field. An estimate's mean
        is unbiased. Raises FlowportError for points with padding, whose law has no density."""
        if target.mask is not None:
            raise FlowportError("a likelihood needs points without padding: their number is part of their law")
        condition, was_training = self.field.conditioning.sampling(Sample(target.x), target.label), self.field.training
        times, pieces, evaluations = self.grid.times(self.field.path).to(target.x).flip(0), [], 0
        self.field.eval()
        for begin in range(0, len(target), self.chunk):
            rows = slice(begin, begin + self.chunk)
            x = target.x[rows]
            dynamics = AugmentedDynamics(self.field, condition[rows], self.divergence, x, generator)
            state = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], 1)
            end = self.solver.solve(dynamics, state, times, generator).end
            pieces.append(self._start(end[:, :-1].view(x.shape)) + end[:, -1])
            evaluations = max(evaluations, dynamics.evaluations)
        self.field.train(was_training)
        return torch.cat(pieces), evaluations

    def _start(self, x: Tensor) -> Tensor:
        """log density of α(0) x0 at x."""
        alpha = float(self.field.path.alpha(x.new_zeros(1)))
        assert isinstance(self.source, Density)
        return self.source.log_prob(x / alpha) - x[0].numel() * math.log(alpha)
