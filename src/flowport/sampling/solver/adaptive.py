"""ODE solvers of adaptive step size, from torchdiffeq.

References:
    Dormand and Prince 1980, "A family of embedded Runge-Kutta formulae", doi:10.1016/0771-050X(80)90013-3.
    Chen et al. 2018, "Neural ordinary differential equations", arXiv:1806.07366.
"""

import torch
from torch import Tensor
from torchdiffeq import odeint

from flowport.errors import FlowportError
from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import Solver


class Dopri5(Solver):
    """Dormand-Prince method of order 5(4) with step size control, |error| ≤ absolute + relative · |x|.

    The grid determines at which times states are returned, not the steps.

    Args:
        relative: Relative tolerance, > 0.
        absolute: Absolute tolerance, > 0.

    Raises:
        FlowportError: Unless both tolerances are > 0.
    """

    order = None

    def __init__(self, relative: float = 1e-5, absolute: float = 1e-5) -> None:
        if relative <= 0 or absolute <= 0:
            raise FlowportError(f"solver=dopri5 needs tolerances > 0, not relative={relative}, absolute={absolute}")
        self.relative, self.absolute = relative, absolute

    def steps(self, nfe: int) -> int:
        """Not defined for an adaptive step size.

        Args:
            nfe: Number of evaluations of the field.

        Raises:
            FlowportError: Always.
        """
        raise FlowportError("solver=dopri5 chooses its own steps: set its tolerances instead of nfe")

    def integrate(
        self, dynamics: Process, x: Tensor, times: Tensor, generator: torch.Generator, all_states: bool
    ) -> tuple[Tensor, Tensor]:
        def drift(t: Tensor, y: Tensor) -> Tensor:
            return dynamics.drift(y, dynamics.times(t, y))

        reported = times if all_states else times[[0, -1]]
        states = odeint(drift, x, reported.to(x), rtol=self.relative, atol=self.absolute, method="dopri5")
        return (times, states) if all_states else (times[-1:], states[-1:])
