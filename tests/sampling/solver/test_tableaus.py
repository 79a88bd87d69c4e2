"""Runge–Kutta tableaus fulfil the order conditions of Butcher that their order declares."""

import pytest
import torch

from flowport.errors import FlowportError
from flowport.sampling.solver import (
    RK4,
    Ancestral,
    Dopri5,
    Euler,
    EulerMaruyama,
    Heun,
    Midpoint,
    RungeKutta,
    StochasticHeun,
)
from tests.zoo import SOLVERS

TABLEAUS = [solver for solver in (make() for _, make in SOLVERS) if isinstance(solver, RungeKutta)]


@pytest.mark.parametrize("solver", TABLEAUS, ids=lambda s: type(s).__name__)
def test_order_conditions(solver):
    table, n = solver.tableau, len(solver.tableau.nodes)
    a = torch.zeros(n, n, dtype=torch.float64)
    for i, row in enumerate(table.stages):
        assert len(row) == i, "explicit"
        a[i, :i] = torch.tensor(row, dtype=torch.float64)
    b, c = torch.tensor(table.weights, dtype=torch.float64), torch.tensor(table.nodes, dtype=torch.float64)
    torch.testing.assert_close(a.sum(1), c)
    conditions = {
        1: [(b.sum(), 1)],
        2: [(b @ c, 1 / 2)],
        3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
        4: [(b @ c**3, 1 / 4), (b @ (c * (a @ c)), 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
    }
    met = {k: all(abs(float(value) - wanted) < 1e-12 for value, wanted in rows) for k, rows in conditions.items()}
    assert all(met[k] for k in range(1, solver.order + 1))
    assert solver.order == 4 or not met[solver.order + 1]


def test_declarations():
    assert [s.order for s in (Euler, Midpoint, Heun, RK4, EulerMaruyama, StochasticHeun)] == [1, 2, 2, 4, 1, 2]
    assert Ancestral.order is None and Dopri5.order is None
    assert [s.__name__ for s in (EulerMaruyama, StochasticHeun, Ancestral, Heun) if s.stochastic] == [
        "EulerMaruyama",
        "StochasticHeun",
        "Ancestral",
    ]
    assert Ancestral.needs_score and not EulerMaruyama.needs_score  # the volatility asks for it


@pytest.mark.parametrize(("relative", "absolute"), [(0, 1e-5), (1e-5, -1)])
def test_tolerances_must_be_positive(relative, absolute):
    with pytest.raises(FlowportError, match="tolerances > 0"):
        Dopri5(relative, absolute)
