"""Adaptive solvers, by torchdiffeq."""

import torch
from torch import Tensor
from torchdiffeq import odeint

from flowport.errors import FlowportError
from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import Solver


class Dopri5(Solver):
    """Dormand–Prince 5(4) with step size control: |error| ≤ absolute + relative · |x| (Chen 2018, torchdiffeq).

    The grid's times are where states are wanted, not where it steps. Raises FlowportError unless both tolerances are
    > 0.
    """

    order = None

    def __init__(self, relative: float = 1e-5, absolute: float = 1e-5) -> None:
        if relative <= 0 or absolute <= 0:
            raise FlowportError(f"solver=dopri5 needs tolerances > 0, not relative={relative}, absolute={absolute}")
        self.relative, self.absolute = relative, absolute

    def steps(self, nfe: int) -> int:
        raise FlowportError("solver=dopri5 chooses its own steps: set its tolerances instead of nfe")

    def integrate(
        self, dynamics: Process, x: Tensor, times: Tensor, generator: torch.Generator, keep: bool
    ) -> tuple[Tensor, Tensor]:
        def drift(t: Tensor, y: Tensor) -> Tensor:
            return dynamics.drift(y, dynamics.times(t, y))

        wanted = times if keep else times[[0, -1]]
        states = odeint(drift, x, wanted.to(x), rtol=self.relative, atol=self.absolute, method="dopri5")
        return (times, states) if keep else (times[-1:], states[-1:])
