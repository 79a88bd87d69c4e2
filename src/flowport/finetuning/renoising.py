"""Results of the current flow, points on the paths that lead to them, and the regression of an adapter at such
points."""

import torch
from torch import Tensor

from flowport.field.base import Field
from flowport.finetuning.adjoint import roll_out, rows
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.tilted_field import TiltedField
from flowport.path.base import PathSample
from flowport.prediction.base import MARGIN
from flowport.reward.base import Reward
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import Grid
from flowport.sampling.solver.runge_kutta import Heun
from flowport.sampling.volatility import ZeroVolatility
from flowport.tensors import scaled
from flowport.types import Condition, Pair, Sample


def simulate(
    field: Field, start: Tensor, condition: Condition, grid: Grid, generator: torch.Generator, keep: bool = False
) -> Tensor:
    """States of a flow, (K+1, n, *D), or (1, n, *D) with the results alone: by Heun's rule for its ODE, and
    by the chain of ``adjoint`` on a bridge whose start is one point, from which an ODE reaches one point."""
    if not field.capabilities.role.ode(field.path):
        states = roll_out(ConsistentDiscretisation(grid), field, start, condition, generator).states
        return states if keep else states[-1:]
    with torch.no_grad():
        dynamics = Dynamics(field, condition, ZeroVolatility())
        return Heun().solve(dynamics, start, grid.times(field.path), generator, keep).states


def spaced(n: int, field: TiltedField, like: Tensor, generator: torch.Generator) -> Tensor:
    """n ascending times, one uniform in each of n equal parts of [0, 1], moved inside the path's interval."""
    jitter = torch.rand(n, generator=generator, device=like.device, dtype=like.dtype)
    t = (torch.arange(n, device=like.device) + jitter) / n
    return field.path.clamp(t).clamp(MARGIN, 1 - MARGIN)


def renoised(field: TiltedField, sources: Tensor, ends: Tensor, t: Tensor, generator: torch.Generator) -> PathSample:
    """Points of the path at t (n,) that lead to ``ends``: from fresh noise where the source is the noise, and from
    ``sources`` on a bridge that sees them."""
    noise = torch.randn(ends.shape, generator=generator, device=ends.device, dtype=ends.dtype)
    if not field.conditioning.sees_source:
        sources = noise
    return field.path.sample(Pair(Sample(sources), Sample(ends)), t, noise if field.path.bridge else None)


def regression_error(
    field: TiltedField, x: Tensor, t: Tensor, condition: Condition, wanted: Tensor, base: Tensor | None = None
) -> Tensor:
    """|ΔE[x1 | x_t] − wanted|² per number of a point, over the spread of x1 given x_t, (B,). base: the base's velocity,
    where known."""
    gains = field.gains(t)
    moved = scaled(gains.end, field.shift(x, t, condition, base))
    return rows(scaled(1 / gains.spread, moved - wanted).square().float()) / x[0].numel()


@torch.no_grad()
def flow_matching_target(field: TiltedField, sample: PathSample, condition: Condition) -> Tensor:
    """What flow matching wants of ΔE[x1 | x_t]: x1 − E_base[x1 | x_t]."""
    return sample.x1 - field.base.endpoints(sample.x, sample.t, condition)[1]


@torch.no_grad()
def control_energy(
    field: TiltedField, sources: Tensor, ends: Tensor, condition: Condition, generator: torch.Generator
) -> Tensor:
    """η|G|² at one re-noised time of every result, (n,): its mean is ∫ E η|G|² dt = KL to the base for a field that is
    the velocity of its own results."""
    t = spaced(len(ends), field, ends, generator)
    t = t[torch.randperm(len(t), generator=generator, device=t.device)]
    sample = renoised(field, sources, ends, t, generator)
    return rows(scaled(1 / field.gains(t).eta, field.shift(sample.x, t, condition).square()))


def reward_surrogate(reward: Reward, x: Tensor, condition: Condition) -> Tensor:
    """r(x), (B,), whose gradient by whatever made x is that of the reward: the reward itself sees detached points."""
    value, slope = reward.value_and_gradient(x, condition)
    return value.to(x) + rows(slope.to(x) * (x - x.detach()))
