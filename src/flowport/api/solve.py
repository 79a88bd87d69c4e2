"""Solvers and couplings for plain functions and tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowport.api.members import member
from flowport.sampling.dynamics import FunctionProcess
from flowport.types import Pair, Sample


def solve(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    *,
    solver: Any = "dopri5",
    steps: int = 50,
    trajectory: bool = False,
) -> Tensor:
    """Integrate dX = v(X, t) dt from t = 0 to t = 1.

    Args:
        velocity: v(x, t) -> (N, *D) of x (N, *D) and t (N,).
        x: Points at t = 0.
        solver: An ODE solver of ``flowport.sampling.solver``.
        steps: Steps of the uniform time grid.
        trajectory: Return all states, (steps + 1, N, *D), instead of the end.
    """
    times = torch.linspace(0, 1, steps + 1, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        process = FunctionProcess(velocity)
        found = member("solver", solver).solve(process, x, times, torch.Generator(), trajectory)
    return found.states if trajectory else found.end


@dataclass(frozen=True)
class Coupled:
    """A coupling of two batches.

    Args:
        i: Source row of every pair, (k,).
        j: Target row of every pair, (k,).
        cost: Mean |x0 − x1|² of the pairs.
        facts: Of the plan, for instance its entropy.
    """

    i: Tensor
    j: Tensor
    cost: float
    facts: Mapping[str, float]


def couple(x0: Tensor, x1: Tensor, *, coupling: Any = "exact", seed: int = 0) -> Coupled:
    """Couple two batches.

    Args:
        x0: Source points (N, *D).
        x1: Target points (N, *D).
        coupling: A coupling of ``flowport.coupling``.
        seed: Of couplings that draw.
    """
    generator = torch.Generator().manual_seed(seed)
    plan = member("coupling", coupling)(Pair(Sample(x0), Sample(x1)), generator)
    cost = (x0[plan.i] - x1[plan.j]).square().flatten(1).sum(1).mean()
    return Coupled(plan.i, plan.j, float(cost), {name: float(value) for name, value in plan.facts.items()})
