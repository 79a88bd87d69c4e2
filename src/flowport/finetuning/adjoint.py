"""Simulated paths of the discretised chain, and the lean adjoint along them.

The lean adjoint is transported by the discrete steps of the frozen base, a_k = (∂m_k/∂x)ᵀ a_{k+1}, from
a_K = −∇r(x_K). Everything here is in float32 or float64.

References:
    Domingo-Enrich, Drozdzal, Karrer & Chen 2024, Adjoint Matching, arXiv:2409.08861.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.field.base import Field
from flowport.finetuning.discretisation import Discretisation
from flowport.finetuning.tilted_field import TiltedField
from flowport.types import Condition


@dataclass(frozen=True)
class ControlledPaths:
    """n paths of a controlled chain. states: (K+1, n, *D); controls: G at every noisy step, (K−1, n, *D);
    log_ratio: log dP/dP_base of each path, (n,); energy: Σ h s²|G|²/2 of each path, (n,), whose mean is KL(P, P_base).
    """

    states: Tensor
    controls: Tensor
    log_ratio: Tensor
    energy: Tensor


def rows(x: Tensor) -> Tensor:
    """Sum over everything but the rows, (B,)."""
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
) -> ControlledPaths:
    """Paths of a base's chain from ``start`` (n, *D) at step ``first``, with the control G of a field tilted from it.

    The base may be a tuned flow itself: it is rolled by its own drift, as ``lean_adjoint`` differentiates it."""
    chain, x = discretisation.noise_schedule(base), start
    states, controls = [x], []
    log_ratio, energy = x.new_zeros(len(x)), x.new_zeros(len(x))
    for _, t, h, variance in chain.steps[first:]:
        x_next, velocity = discretisation.step(base, x, t, h, variance, condition)
        if variance > 0:
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            scale = (h * variance) ** 0.5
            x_next = x_next + scale * noise
            if control is not None:
                at, s2 = (x.new_tensor(value).expand(len(x)) for value in (t, variance))
                g = discretisation.control(control, x, at, condition, s2, chain.times[1], velocity)
                x_next = x_next + h * variance * g
                spent = 0.5 * h * variance * rows(g.square())
                log_ratio, energy = log_ratio + scale * rows(g * noise) + spent, energy + spent
                controls.append(g)
        x = x_next
        states.append(x)
    made = torch.stack(controls) if controls else x.new_zeros(len(chain.times) - 2, *x.shape)
    return ControlledPaths(torch.stack(states), made, log_ratio, energy)


def lean_adjoint(
    discretisation: Discretisation, base: Field, states: Tensor, condition: Condition, terminal: Tensor, first: int = 0
) -> Tensor:
    """a_k = (∂m_k/∂x)ᵀ a_{k+1} of the frozen base along states (K+1−first, n, *D), a_K = ``terminal``: the same shape.

    The states are constants: no gradient flows along the path.
    """
    a, found = terminal, [terminal]
    steps = discretisation.noise_schedule(base).steps[first:]
    with torch.inference_mode(False), torch.enable_grad():
        for (_, t, h, variance), state in reversed(list(zip(steps, states[:-1], strict=True))):
            x = state.detach().clone().requires_grad_()
            mean, _ = discretisation.step(base, x, t, h, variance, condition)
            (a,) = torch.autograd.grad(mean, x, a.to(mean.dtype))
            found.append(a)
    return torch.stack(found[::-1])
