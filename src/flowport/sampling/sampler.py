"""How a flow is sampled: solver, time grid, volatility and guidance, whatever the field."""

from dataclasses import dataclass, field

from flowport.field.base import Field
from flowport.field.guidance import Guidance, Unguided
from flowport.sampling.grid import Grid
from flowport.sampling.solver.base import Solver
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import Volatility


@dataclass
class Sampler:
    """What turns a field into a ``Translator``.

    Args:
        solver: Of the ODE or SDE.
        grid: Its times.
        volatility: g(t); zero for the ODE.
        guidance: Applied to the field first.
    """

    solver: Solver
    grid: Grid
    volatility: Volatility
    guidance: Guidance = field(default_factory=Unguided)

    def translator(self, flow: Field) -> Translator:
        """The translator of a field.

        Args:
            flow: The field, before guidance.

        Raises:
            FlowportError: Where the field does not support guidance, solver and volatility.
        """
        return Translator(self.guidance(flow), self.solver, self.grid, self.volatility)
