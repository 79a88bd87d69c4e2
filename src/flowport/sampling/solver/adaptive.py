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

MOST_STEPS = 20_000
"""Number of steps between two reported times after which an integration is given up."""


def row_norm(error: Tensor) -> Tensor:
    """The largest root mean square of a row, ().

    Args:
        error: Errors relative to the tolerance, (B, *D).
    """
    return error.flatten(1).square().mean(1).sqrt().max() if error.ndim > 1 else error.abs().max()


class Dopri5(Solver):
    """Dormand-Prince method of order 5(4) with step size control, |error| ≤ absolute + relative · |x|.

    The error is that of the worst row of the batch, so that no row's accuracy depends on the others. The grid
    determines at which times states are returned, not the steps.

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
        """The integration itself.

        Args:
            dynamics: The process to integrate.
            x: States at the first time, (B, *D).
            times: Times (K+1,), ascending or descending.
            generator: Not drawn from.
            all_states: Whether all K + 1 states are returned, and not only the last.

        Raises:
            FlowportError: Where the steps become too small or too many for the tolerances.
        """

        def drift(t: Tensor, y: Tensor) -> Tensor:
            return dynamics.drift(y, dynamics.times(t, y))

        reported = times if all_states else times[[0, -1]]
        options = {"norm": row_norm, "max_num_steps": MOST_STEPS}
        tolerances = {"rtol": self.relative, "atol": self.absolute}
        try:
            states = odeint(drift, x, reported.to(x), **tolerances, method="dopri5", options=options)
        except AssertionError as error:  # torchdiffeq's word for steps that become too small or too many
            raise FlowportError(
                f"solver=dopri5 does not reach t = {float(times[-1]):g} within its tolerances ({str(error).strip()}): "
                "the field grows too fast or is not finite; raise solver.relative and solver.absolute, or use "
                "solver=rk4"
            ) from None
        return (times, states) if all_states else (times[-1:], states[-1:])
