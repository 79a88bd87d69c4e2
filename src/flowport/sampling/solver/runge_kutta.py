"""Explicit Runge-Kutta methods, defined by their Butcher tableaus.

References:
    Hairer et al. 1993, "Solving ordinary differential equations I: nonstiff problems", Springer,
    doi:10.1007/978-3-540-78862-1.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import FixedStep


@dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit Runge-Kutta method.

    Stage k_i is the drift at time t + nodes[i] h and point x + h Σ_j stages[i][j] k_j; the step is
    x + h Σ_i weights[i] k_i.

    Args:
        nodes: Relative times of the stages.
        stages: Strictly lower triangular matrix of the stages; row i has i entries.
        weights: Weights of the stages in the step.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


class RungeKutta(FixedStep):
    """Explicit Runge-Kutta method of a Butcher tableau.

    A member provides ``tableau``, ``order`` and ``calls``, the number of stages.

    Attributes:
        tableau: The Butcher tableau.
    """

    tableau: ClassVar[Tableau]

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        h, slopes = s - t, list[Tensor]()
        for node, row in zip(self.tableau.nodes, self.tableau.stages, strict=True):
            point = x + h * sum((a * k for a, k in zip(row, slopes, strict=True) if a), start=0.0)
            slopes.append(dynamics.drift(point, dynamics.times(t + node * h, x)))
        return x + h * sum((b * k for b, k in zip(self.tableau.weights, slopes, strict=True) if b), start=0.0)


class Euler(RungeKutta):
    """Euler's method x + h k(t), of order 1."""

    order = 1
    tableau = Tableau((0.0,), ((),), (1.0,))


class Midpoint(RungeKutta):
    """Midpoint method x + h k(t + h/2), of order 2."""

    order = 2
    calls = 2
    tableau = Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0))


class Heun(RungeKutta):
    """Heun's method x + h/2 (k(t) + k(t + h)), of order 2."""

    order = 2
    calls = 2
    tableau = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5))


class RK4(RungeKutta):
    """The classical Runge-Kutta method, of order 4."""

    order = 4
    calls = 4
    tableau = Tableau((0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
