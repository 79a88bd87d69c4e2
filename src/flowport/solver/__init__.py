"""How a field is integrated."""

from flowport.solver.adaptive import Adaptive
from flowport.solver.base import FixedStep, Solver, Trajectory
from flowport.solver.runge_kutta import RK4, Euler, Heun, Midpoint, RungeKutta, Tableau
from flowport.solver.stochastic import Ancestral, EulerMaruyama, StochasticHeun

__all__ = [
    "RK4",
    "Adaptive",
    "Ancestral",
    "Euler",
    "EulerMaruyama",
    "FixedStep",
    "Heun",
    "Midpoint",
    "RungeKutta",
    "Solver",
    "StochasticHeun",
    "Tableau",
    "Trajectory",
]
