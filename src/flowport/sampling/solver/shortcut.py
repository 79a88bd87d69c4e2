"""The step of a field that knows its mean velocity over a step."""

from torch import Tensor

from flowport.field.base import Field
from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import FixedStep, forwards


class ShortcutSolver(FixedStep):
    """x + (s − t) ū(x, t, s − t), ū the field's mean velocity over the step: exact on any grid for an exact field, one
    evaluation a step (Frans et al. 2024). Forwards only, as it was learnt."""

    order = None

    def accept(self, field: Field) -> None:
        field.require_step("solver=shortcut")

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        forwards("shortcut", t, s)
        return x + (s - t) * dynamics.flow().average_velocity(x, dynamics.times(t, x), s - t)
