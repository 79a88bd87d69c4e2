"""Explicit Runge–Kutta methods: a method is its Butcher tableau."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowport.sampling.dynamics import Process
from flowport.sampling.solver.base import FixedStep


@dataclass(frozen=True)
class Tableau:
    """Stage i is evaluated at t + nodes[i] h in x + h Σ_j stages[i][j] k_j; the step is x + h Σ_i weights[i] k_i."""

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


class RungeKutta(FixedStep):
    """The step of a tableau; members are tableaus."""

    tableau: ClassVar[Tableau]

    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        h, slopes = s - t, list[Tensor]()
        for node, row in zip(self.tableau.nodes, self.tableau.stages, strict=True):
            point = x + h * sum((a * k for a, k in zip(row, slopes, strict=True) if a), start=0.0)
            slopes.append(dynamics.drift(point, dynamics.times(t + node * h, x)))
        return x + h * sum((b * k for b, k in zip(self.tableau.weights, slopes, strict=True) if b), start=0.0)


class Euler(RungeKutta):
    """x + h k1. Order 1."""

    order = 1
    tableau = Tableau((0.0,), ((),), (1.0,))


class Midpoint(RungeKutta):
    """x + h k(t + h/2). Order 2."""

    order = 2
    calls = 2
    tableau = Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0))


class Heun(RungeKutta):
    """x + h/2 (k(t) + k(t + h)). Order 2."""

    order = 2
    calls = 2
    tableau = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5))


class RK4(RungeKutta):
    """The classical method of order 4."""

    order = 4
    calls = 4
    tableau = Tableau((0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
