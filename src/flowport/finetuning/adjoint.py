"""Simulated paths of the discretised controlled SDE, and the lean adjoint along them.

The lean adjoint is transported backwards by the steps of the frozen base, a_k = (∂m_k/∂x)ᵀ a_{k+1}, from
a_K = −λ∇r(x_K), with m_k the mean step of ``flowport.finetuning.discretisation``. States, adjoints and log-ratios are
float32 or float64, also under autocast.

References:
    Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative models
        with memoryless stochastic optimal control", arXiv:2409.08861.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.cache import progress
from flowport.field.base import Field
from flowport.finetuning.discretisation import Discretisation
from flowport.finetuning.tilted_field import TiltedField
from flowport.network.pieces import joined, spans
from flowport.network.replay import gradients_replayed
from flowport.reward.base import exact
from flowport.tensors import noise_like
from flowport.types import Condition


@dataclass(frozen=True)
class ControlledPaths:
    """Paths of the controlled discretised SDE, with their exact likelihood ratios to the base.

    With P the law of the controlled path and P_base that of the uncontrolled one,

        log dP/dP_base = Σ_k √(h_k s²_k) G_k·ε_k + h_k s²_k |G_k|²/2,      KL(P ‖ P_base) = E_P Σ_k h_k s²_k |G_k|²/2.

    Args:
        states: x_0 … x_K, (K+1, n, *D); from a later first step only the states from there on.
        controls: G at every noisy step, (K−1, n, *D); zeros where there was no control.
        log_ratio: log dP/dP_base of each path, (n,), in nats.
        energy: Control energy Σ_k h_k s²_k |G_k|²/2 of each path, (n,), in nats; its mean estimates KL(P ‖ P_base).
    """

    states: Tensor
    controls: Tensor
    log_ratio: Tensor
    energy: Tensor


def rows(x: Tensor) -> Tensor:
    """Sum over all dimensions but the first, (B,).

    Args:
        x: Tensor (B, *D).
    """
    return x.flatten(1).sum(1)


@torch.no_grad()
def roll_out(
    discretisation: Discretisation,
    base: Field,
    start: Tensor,
    condition: Condition,
    generator: torch.Generator,
    control: TiltedField | None = None,
    first: int = 0,
    driven: bool = True,
    ends_only: bool = False,
    title: str = "",
) -> ControlledPaths:
    """Simulate paths of the discretised memoryless SDE of a base, x_{k+1} = m_k(x_k) + h_k s²_k G_k + √(h_k s²_k) ε_k.

    The base may itself be a tuned flow: its own drift is simulated, which is also what ``lean_adjoint`` differentiates.
    Paths that are not driven are the base's own, x_{k+1} = m_k(x_k) + √(h_k s²_k) ε_k, along which the control is
    evaluated: log dP/dP_base = Σ_k √(h_k s²_k) G_k·ε_k − h_k s²_k |G_k|²/2.

    Args:
        discretisation: Steps and variances of the SDE.
        base: The frozen field that defines the mean step m_k.
        start: States at step ``first``, (n, *D).
        condition: What the field is conditioned on, n rows.
        generator: Random generator of the noise ε, on the device of ``start``.
        control: The tilted field that gives G; None for the base's own paths.
        first: Number of the step at which the paths start.
        driven: Whether the control drives the paths; else it is only evaluated along the base's own.
        ends_only: Keep the last state alone, and no controls.
        title: What is done, where the progress over the steps is shown; empty for none.

    Returns:
        The paths, with K+1−first states.
    """
    schedule, x = discretisation.noise_schedule(base), start
    states, controls = [x], []
    log_ratio, energy = x.new_zeros(len(x)), x.new_zeros(len(x))
    steps = schedule.steps[first:]
    for _, t, h, variance in progress(steps, title, len(steps)) if title else steps:
        x_next, velocity = discretisation.step(base, x, t, h, variance, condition)
        if variance > 0:
            noise = noise_like(x, generator)
            scale = (h * variance) ** 0.5
            x_next = x_next + scale * noise
            if control is not None:
                at, s2 = (x.new_full((), value).expand(len(x)) for value in (t, variance))
                g = discretisation.control(control, x, at, condition, s2, schedule.times[1], velocity)
                cost = 0.5 * h * variance * rows(g.square())
                x_next = x_next + h * variance * g if driven else x_next
                log_ratio = log_ratio + scale * rows(g * noise) + (cost if driven else -cost)
                energy = energy + cost
                if not ends_only:
                    controls.append(g)
        x = x_next
        states = [x] if ends_only else [*states, x]
    stacked = torch.stack(controls) if controls else x.new_zeros(()).expand(len(schedule.times) - 2, *x.shape)
    return ControlledPaths(torch.stack(states), stacked, log_ratio, energy)


def lean_adjoint(
    discretisation: Discretisation, base: Field, states: Tensor, condition: Condition, terminal: Tensor, first: int = 0
) -> Tensor:
    """Lean adjoint a_k = (∂m_k/∂x)ᵀ a_{k+1} of the frozen base along given paths, from a_K = ``terminal``.

    The states are constants, and the control does not enter: only the mean step of the base is differentiated. It is
    computed without autocast, also where the paths were simulated under it, for ``base.piece_rows`` paths at a time.

    Args:
        discretisation: Steps and variances of the SDE.
        base: The frozen field that defines the mean step m_k.
        states: x_first … x_K, (K+1−first, n, *D).
        condition: What the field is conditioned on, n rows.
        terminal: a_K = −λ∇r(x_K), (n, *D).
        first: Number of the step of the first state.

    Returns:
        a_first … a_K, of the shape of ``states``.
    """
    steps = discretisation.noise_schedule(base).steps[first:]

    def transported(at: slice) -> Tensor:
        a, adjoints, given = terminal[at], [terminal[at]], condition[at]
        for (_, t, h, variance), state in reversed(list(zip(steps, states[:-1, at], strict=True))):
            x = state.detach().clone().requires_grad_()
            mean, _ = discretisation.step(base, x, t, h, variance, given)
            (a,) = torch.autograd.grad(mean, x, a.to(mean.dtype))
            adjoints.append(a)
        return torch.stack(adjoints[::-1])

    with torch.inference_mode(False), torch.enable_grad(), exact(states), gradients_replayed(base):
        return joined([transported(at) for at in spans(len(terminal), base.piece_rows)], 1)
