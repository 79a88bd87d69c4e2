"""Solver for fields that were trained for their mean velocity over a step."""

from torch import Tensor

from flowport.field.base import Field
from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import FixedStep, require_forward


class ShortcutSolver(FixedStep):
    """Shortcut step x_s = x_t + (s − t) ū(x_t, t, s − t), with the field's mean velocity ū over the step.

    It is exact on any grid for an exact field, with one evaluation per step. Forwards only, as shortcuts are trained.
    A field must have been trained for ū; ``accept`` raises FlowportError otherwise.

    References:
        Frans et al. 2024, "One step diffusion via shortcut models", arXiv:2410.12557.
    """

    order = None

    def accept(self, field: Field) -> None:
        field.require_step("solver=shortcut")

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        require_forward("shortcut", t, s)
        return x + (s - t) * dynamics.flow().average_velocity(x, dynamics.times(t, x), s - t)
