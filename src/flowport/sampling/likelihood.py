"""Log-likelihood of a flow by the instantaneous change of variables.

    log p1(x1) = log p0(x0) − ∫₀¹ ∇·v(x_t, t) dt,   ẋ = v(x, t) from x0 to x1,

integrated backwards from x1 as one state (x, ℓ) with ℓ̇ = ∇·v, ℓ(1) = 0. p0 is the law from which translations start:
that of α(0) x0 with x0 from the source.

References:
    Chen et al. 2018, "Neural ordinary differential equations", arXiv:1806.07366.
    Grathwohl et al. 2019, "FFJORD: free-form continuous dynamics for scalable reversible generative models",
    arXiv:1810.01367.
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
from flowport.sampling.dynamics import Dynamics, evaluation_mode
from flowport.sampling.grid import Grid
from flowport.sampling.solver.adaptive import Dopri5
from flowport.sampling.solver.base import Solver
from flowport.sampling.solver.runge_kutta import RungeKutta
from flowport.sampling.volatility import ZeroVolatility
from flowport.types import Condition, Sample


class AugmentedDynamics(Dynamics):
    """The ODE of a field augmented by ℓ̇ = ∇·v, on states (x, ℓ) of shape (B, d + 1).

    The directions of the divergence are drawn once, for the whole trajectory.

    Args:
        field: The field of velocity v.
        condition: The condition of all B rows.
        divergence: Computes ∇·v.
        x: Points (B, *D), which determine shape and dtype; d is the product of D.
        generator: Source of the random directions.
    """

    def __init__(
        self, field: Field, condition: Condition, divergence: Divergence, x: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__(field, condition, ZeroVolatility())
        self.divergence, self.shape, self.directions = divergence, x.shape, divergence.directions(x, generator)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The augmented velocity (v, ∇·v), (B, d + 1).

        Args:
            x: States (B, d + 1).
            t: Times (B,).
        """
        point = x[:, :-1].view(self.shape)
        v, divergence = self.divergence.value_and_divergence(partial(super().velocity, t=t), point, self.directions)
        return torch.cat([v.flatten(1), divergence[:, None]], 1)


class Likelihood:
    """Log-likelihood log p1 of target points under the ODE of a field.

    Args:
        field: The field, unconditional or conditioned on the target label.
        source: The source, which must have a density.
        solver: A Runge-Kutta solver of ODEs, of fixed or adaptive step.
        grid: Time grid of the solver, used in descending order.
        divergence: Computes ∇·v.
        chunk: Number of points integrated at once.

    Raises:
        FlowportError: Where the start law has no density, the field is conditioned on the start or on its label, the
            field is guided by a reward, or the solver uses more than velocities.
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
        """Log densities log p1(x | label) in nats, (n,), and the number of evaluations of the field per point.

        With an estimated divergence the result is unbiased, up to the error of the solver.

        Args:
            target: Points (n, *D) with their labels, where the field is conditioned on them.
            generator: Source of the random directions of the divergence.

        Raises:
            FlowportError: For points with padding.
        """
        if target.mask is not None:
            raise FlowportError("a likelihood needs points without padding: their number is part of their law")
        condition = self.field.conditioning.sampling(Sample(target.x), target.label)
        times, pieces, evaluations = self.grid.times(self.field.path).to(target.x).flip(0), [], 0
        with evaluation_mode(self.field):
            for begin in range(0, len(target), self.chunk):
                rows = slice(begin, begin + self.chunk)
                x = target.x[rows]
                dynamics = AugmentedDynamics(self.field, condition[rows], self.divergence, x, generator)
                state = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], 1)
                end = self.solver.solve(dynamics, state, times, generator).end
                pieces.append(self._start_log_prob(end[:, :-1].view(x.shape)) + end[:, -1])
                evaluations = max(evaluations, dynamics.evaluations)
        return torch.cat(pieces), evaluations

    def _start_log_prob(self, x: Tensor) -> Tensor:
        """The log density of α(0) x0 at x, (B,)."""
        alpha = float(self.field.path.alpha(x.new_zeros(1)))
        assert isinstance(self.source, Density)
        return self.source.log_prob(x / alpha) - x[0].numel() * math.log(alpha)
