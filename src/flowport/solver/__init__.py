"""How a field is integrated."""

from flowport.solver.adaptive import Adaptive
from flowport.solver.base import FixedStep, Solver, Trajectory
from flowport.solver.churn import Churn
from flowport.solver.exponential import DDIM, DPMSolver, MeanEnd
from flowport.solver.runge_kutta import RK4, Euler, Heun, Midpoint, RungeKutta, Tableau
from flowport.solver.shortcut import Shortcut
from flowport.solver.stochastic import Ancestral, EulerMaruyama, StochasticHeun

__all__ = [
    "DDIM",
    "RK4",
    "Adaptive",
    "Ancestral",
    "Churn",
    "DPMSolver",
    "Euler",
    "EulerMaruyama",
    "FixedStep",
    "Heun",
    "MeanEnd",
    "Midpoint",
    "RungeKutta",
    "Shortcut",
    "Solver",
    "StochasticHeun",
    "Tableau",
    "Trajectory",
]
