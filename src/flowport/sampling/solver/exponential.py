"""Exponential integrators, whose steps hold the predicted end points of the path constant and not the velocity.

A step depends on the weights α, β, γ at its ends only, not on their time derivatives.
"""

import math
from typing import Any

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.path.base import Path
from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import FixedStep, require_forward
from flowport.tensors import over

TINY = 1e-9
"""Weights below this number count as zero in log β/α."""


class DDIM(FixedStep):
    """DDIM, generalised to any source and both directions; order 1.

        x_s = x_t + (α_s − α_t) x̂0 + (β_s − β_t) x̂1 + (γ_s − γ_t) ẑ = α_s x̂0 + β_s x̂1 + γ_s ẑ,

    with the posterior means x̂0, x̂1, ẑ at x_t. On the linear path this is Euler's step. Two schedules with the same β/α
    and the same denoiser give the same x/β. Fields evaluate end points at times at least 1e-3 inside [0, 1]; therefore
    steps from an end of [0, 1] differ slightly from Euler's for a learned velocity.

    A field on a bridge path must have a score, so that ẑ is known; ``accept`` raises FlowportError otherwise.

    References:
        Song et al. 2021, "Denoising diffusion implicit models", arXiv:2010.02502.
    """

    order = 1

    def accept(self, field: Field) -> None:
        _require_endpoints(field, "ddim")

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        flow = dynamics.flow()
        self.accept(flow.field)
        path, at, to = flow.field.path, dynamics.times(t, x), dynamics.times(s, x)
        for weight, end in zip((path.alpha, path.beta, path.gamma), flow.endpoints(x, at), strict=True):
            if end is not None:
                x = x + over(weight(to) - weight(at), x) * end
        return x


class DPMSolver(FixedStep):
    """DPM-Solver++ (2M), an exponential two-step method in λ = log β/α of order 2.

        x_s = (α_s/α_t) x_t + (β_s − (α_s/α_t) β_t) [x̂1(t) + h/(2 h') (x̂1(t) − x̂1(t'))],

    with h = λ_s − λ_t, the time t' before t and h' = λ_t − λ_t'. The first step, a step after an infinite h' (from
    β = 0) and a step of infinite h (to α = 0) are steps of DDIM. One evaluation per step, on any source. Forwards only.

    The memory between steps is (h', x̂1(t')).

    References:
        Lu et al. 2022, "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models",
        arXiv:2211.01095, Algorithm 2.
    """

    order = 2

    def accept(self, field: Field) -> None:
        """Check that this solver supports a field.

        Args:
            field: The field.

        Raises:
            FlowportError: For a field on a bridge path.
        """
        if field.path.bridge:
            raise FlowportError(
                "solver=dpm_solver needs a path of two weights, without noise of its own: use solver=ddim"
            )

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        return self.advance(dynamics, x, t, s, noise, last, None)[0]

    def advance(
        self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool, memory: Any
    ) -> tuple[Tensor, Any]:
        require_forward("dpm_solver", t, s)
        flow = dynamics.flow()
        self.accept(flow.field)
        (a, b), (c, d) = weights(flow.field.path, t), weights(flow.field.path, s)
        h = _log_ratio(c, d) - _log_ratio(a, b)
        target = extrapolated = flow.endpoints(x, dynamics.times(t, x))[1]
        if memory is not None and math.isfinite(h):
            previous_h, previous_target = memory
            extrapolated = target + h / (2 * previous_h) * (target - previous_target)
        return c / a * x + (d - c / a * b) * extrapolated, (h, target)


class MeanEnd(FixedStep):
    """Another solver with the last step replaced by the posterior mean E[x1 | x_t], without remaining noise.

    Where the source is the noise, this is Tweedie's formula. Forwards only. A field on a bridge path must have a score;
    ``accept`` raises FlowportError otherwise.

    Args:
        solver: The solver of all other steps.

    References:
        Efron 2011, "Tweedie's formula and selection bias", doi:10.1198/jasa.2011.tm11181.
    """

    order = None

    def __init__(self, solver: FixedStep) -> None:
        self.solver = solver
        self.stochastic, self.needs_score, self.calls = solver.stochastic, solver.needs_score, solver.calls

    def accept(self, field: Field) -> None:
        self.solver.accept(field)
        _require_endpoints(field, "mean_end")

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        return self.advance(dynamics, x, t, s, noise, last, None)[0]

    def advance(
        self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool, memory: Any
    ) -> tuple[Tensor, Any]:
        if not last:
            return self.solver.advance(dynamics, x, t, s, noise, last, memory)
        require_forward("mean_end", t, s)
        return dynamics.flow().endpoints(x, dynamics.times(t, x))[1], None


def weights(path: Path, t: float) -> tuple[float, float]:
    """The weights (α, β) at one time, in double precision.

    Args:
        path: The path.
        t: The time.
    """
    at = torch.tensor([t], dtype=torch.float64)
    return float(path.alpha(at)), float(path.beta(at))


def _log_ratio(alpha: float, beta: float) -> float:
    """The logarithm of β/α, infinite where either vanishes up to rounding (cos(π/2) is 6e-17)."""
    return -math.inf if beta < TINY else math.inf if alpha < TINY else math.log(beta / alpha)


def _require_endpoints(field: Field, solver: str) -> None:
    if field.path.bridge:
        field.capabilities.require_score(f"solver={solver}")
