"""Solvers that hold the path's end points still for a step, not the velocity: they see no schedule, only weights."""

import math
from typing import Any

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.path.base import Path
from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import FixedStep, forwards
from flowport.tensors import over

TINY = 1e-9


class DDIM(FixedStep):
    """x_s = x_t + (α_s − α_t) x̂0 + (β_s − β_t) x̂1 + (γ_s − γ_t) ẑ = α_s x̂0 + β_s x̂1 + γ_s ẑ, x̂ read at t. Order 1.

    Song, Meng & Ermon (2021), for any source and both ways. On the linear path it is Euler's step; two schedules with
    the same β/α and the same denoiser give the same x/β. A field's end points are read a margin of 1e-3 inside [0, 1],
    so on grids that touch an end a learnt velocity gives a little else than Euler's step there. Raises FlowportError
    for a
    bridge whose ẑ is unknown.
    """

    order = 1

    def accept(self, field: Field) -> None:
        _know_ends(field, "ddim")

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        flow = dynamics.flow()
        self.accept(flow.field)
        path, at, to = flow.field.path, dynamics.times(t, x), dynamics.times(s, x)
        for weight, end in zip((path.alpha, path.beta, path.gamma), flow.endpoints(x, at), strict=True):
            if end is not None:
                x = x + over(weight(to) - weight(at), x) * end
        return x


class DPMSolver(FixedStep):
    """DPM-Solver++ (2M), Lu et al. (2022): with λ = log β/α and h = λ_s − λ_t the exponential integrator

        x_s = (α_s/α_t) x_t + (β_s − (α_s/α_t) β_t) [x̂1(t) + h/(2 h') (x̂1(t) − x̂1(t'))],

    t' the time before and h' = λ_t − λ_t'. The first step, and one to α = 0 where h is infinite, is DDIM's. Order 2
    with one evaluation a step; nothing in it asks that the source be noise. Forwards only. Raises FlowportError for
    bridges.
    """

    order = 2

    def accept(self, field: Field) -> None:
        if field.path.bridge:
            raise FlowportError(
                "solver=dpm_solver needs a path of two weights, without noise of its own: use solver=ddim"
            )

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        return self.advance(dynamics, x, t, s, noise, last, None)[0]

    def advance(
        self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool, memory: Any
    ) -> tuple[Tensor, Any]:
        """The memory is (h', x̂1(t'))."""
        forwards("dpm_solver", t, s)
        flow = dynamics.flow()
        self.accept(flow.field)
        (a, b), (c, d) = weights(flow.field.path, t), weights(flow.field.path, s)
        h = _log_ratio(c, d) - _log_ratio(a, b)
        target = guess = flow.endpoints(x, dynamics.times(t, x))[1]
        if memory is not None and math.isfinite(h):
            before, old = memory
            guess = target + h / (2 * before) * (target - old)
        return c / a * x + (d - c / a * b) * guess, (h, target)


class MeanEnd(FixedStep):
    """Any solver but for its last step, which returns E[x1 | x_t]: no noise is left (Tweedie's formula; Robbins 1956).

    Forwards only. Raises FlowportError where the end points of the field are unknown.
    """

    order = None

    def __init__(self, solver: FixedStep) -> None:
        self.solver = solver
        self.stochastic, self.needs_score, self.calls = solver.stochastic, solver.needs_score, solver.calls

    def accept(self, field: Field) -> None:
        self.solver.accept(field)
        _know_ends(field, "mean_end")

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        return self.advance(dynamics, x, t, s, noise, last, None)[0]

    def advance(
        self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool, memory: Any
    ) -> tuple[Tensor, Any]:
        if not last:
            return self.solver.advance(dynamics, x, t, s, noise, last, memory)
        forwards("mean_end", t, s)
        return dynamics.flow().endpoints(x, dynamics.times(t, x))[1], None


def weights(path: Path, t: float) -> tuple[float, float]:
    """(α, β) at one time, in double precision."""
    at = torch.tensor([t], dtype=torch.float64)
    return float(path.alpha(at)), float(path.beta(at))


def _log_ratio(alpha: float, beta: float) -> float:
    """log β/α, infinite where either vanishes: cos(π/2) is 6e-17."""
    return -math.inf if beta < TINY else math.inf if alpha < TINY else math.log(beta / alpha)


def _know_ends(field: Field, solver: str) -> None:
    if field.path.bridge:
        field.capabilities.require_score(f"solver={solver}")
