"""Simulated results of a flow, re-noised points of the paths that lead to them, and the regression of an adapter.

ΔE[x1 | x_t] = (n²/β) G is the change of the predicted end point, with n the weight of the noise and β that of x1
(``flowport.finetuning.adapter.base``). Under a memoryless SDE the law of (x_t, x1) along simulated paths is that of
re-noised results (Domingo-Enrich et al. 2024).

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
"""

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
    field: Field, start: Tensor, condition: Condition, grid: Grid, generator: torch.Generator, all_states: bool = False
) -> Tensor:
    """Simulate a flow: its ODE by Heun's method, or its memoryless SDE on a bridge without noise at the start.

    On such a bridge the start given x0 is one point, from which the ODE reaches one point only (``NoiseRole.ode``).

    Args:
        field: The field.
        start: Starts, (n, *D).
        condition: What the field is conditioned on, n rows.
        grid: Times of the steps.
        generator: Random generator of the SDE's noise, on the device of ``start``.
        all_states: Whether to return all states.

    Returns:
        All states, (K+1, n, *D), or the results alone, (1, n, *D). They carry no gradient.
    """
    if not field.capabilities.role.ode(field.path):
        states = roll_out(ConsistentDiscretisation(grid), field, start, condition, generator).states
        return states if all_states else states[-1:]
    with torch.no_grad():
        dynamics = Dynamics(field, condition, ZeroVolatility())
        return Heun().solve(dynamics, start, grid.times(field.path), generator, all_states).states


def stratified_times(n: int, field: TiltedField, like: Tensor, generator: torch.Generator) -> Tensor:
    """Stratified times, (n,): ascending, one uniform in each of n equal parts of [0, 1].

    They are moved inside the path's interval and inside (0, 1).

    Args:
        n: Number of times.
        field: The field, of which the path's interval is read.
        like: Tensor whose device and dtype the times have.
        generator: Random generator on that device.
    """
    jitter = torch.rand(n, generator=generator, device=like.device, dtype=like.dtype)
    t = (torch.arange(n, device=like.device) + jitter) / n
    return field.path.clamp(t).clamp(MARGIN, 1 - MARGIN)


def renoised(field: TiltedField, sources: Tensor, ends: Tensor, t: Tensor, generator: torch.Generator) -> PathSample:
    """Re-noised results: points x_t of the path that ends at ``ends``.

    The source is fresh noise where the source is the noise, and ``sources`` on a bridge whose field sees them, with
    fresh bridge noise.

    Args:
        field: The field, of which path and conditioning are read.
        sources: Sources x0, (n, *D); used only where the field sees them.
        ends: Results x1, (n, *D).
        t: Times, (n,).
        generator: Random generator of the noise, on the device of ``ends``.
    """
    noise = torch.randn(ends.shape, generator=generator, device=ends.device, dtype=ends.dtype)
    if not field.conditioning.sees_source:
        sources = noise
    return field.path.sample(Pair(Sample(sources), Sample(ends)), t, noise if field.path.bridge else None)


def regression_error(
    field: TiltedField, x: Tensor, t: Tensor, condition: Condition, wanted: Tensor, base: Tensor | None = None
) -> Tensor:
    """Regression error |ΔE[x1 | x_t] − wanted|²/(d spread²), (B,), of the adapter on a change of the end point.

    d is the number of coordinates of a point and spread² = n²/(n² + β²) the variance of x1 given x_t for Cov(x1) = I,
    so that errors at all times have the same scale.

    Args:
        field: The tilted field whose adapter is regressed.
        x: Points x_t, (B, *D).
        t: Times, (B,).
        condition: What the field is conditioned on, B rows.
        wanted: Target of ΔE[x1 | x_t], (B, *D).
        base: The base's velocity at (x, t) if already computed, (B, *D).
    """
    gains = field.gains(t)
    moved = scaled(gains.end, field.shift(x, t, condition, base))
    return rows(scaled(1 / gains.spread, moved - wanted).square().float()) / x[0].numel()


@torch.no_grad()
def flow_matching_target(field: TiltedField, sample: PathSample, condition: Condition) -> Tensor:
    """Flow-matching target x1 − E_base[x1 | x_t] of the change ΔE[x1 | x_t], (B, *D), without a gradient.

    Args:
        field: The tilted field, of which the base is evaluated.
        sample: Points of the path with their results.
        condition: What the field is conditioned on, B rows.
    """
    return sample.x1 - field.base.endpoints(sample.x, sample.t, condition)[1]


@torch.no_grad()
def control_energy(
    field: TiltedField, sources: Tensor, ends: Tensor, condition: Condition, generator: torch.Generator
) -> Tensor:
    """Control energy η|G|² = |Δv|²/η at one re-noised time of every result, (n,).

    Its mean estimates ∫₀¹ E η|G|² dt, which is the path KL to the base if the field is the velocity of its own results.

    Args:
        field: The tilted field.
        sources: Sources x0, (n, *D); used only where the field sees them.
        ends: Results of the field, (n, *D).
        condition: What the field is conditioned on, n rows.
        generator: Random generator of times and noise, on the device of ``ends``.
    """
    t = stratified_times(len(ends), field, ends, generator)
    t = t[torch.randperm(len(t), generator=generator, device=t.device)]
    sample = renoised(field, sources, ends, t, generator)
    return rows(scaled(1 / field.gains(t).eta, field.shift(sample.x, t, condition).square()))


def reward_surrogate(reward: Reward, x: Tensor, condition: Condition) -> Tensor:
    """Reward r(x) + ∇r(x)·(x − sg[x]), (B,), equal to r(x) and with the gradient ∇r(x) through x.

    sg[·] stops the gradient: the reward itself is evaluated on detached points, in its own precision.

    Args:
        reward: A differentiable reward.
        x: Points with a graph, (B, *D).
        condition: The condition of the points, B rows.
    """
    value, slope = reward.value_and_gradient(x, condition)
    return value.to(x) + rows(slope.to(x) * (x - x.detach()))
