"""Solvers of the ODE and the SDE of a flow."""

from flowport.sampling.solver.adaptive import Dopri5
from flowport.sampling.solver.base import FixedStep, Solver, Trajectory
from flowport.sampling.solver.churn import Churn
from flowport.sampling.solver.exponential import DDIM, DPMSolver, MeanEnd
from flowport.sampling.solver.feynman_kac import FeynmanKac
from flowport.sampling.solver.runge_kutta import RK4, Euler, Heun, Midpoint, RungeKutta, Tableau
from flowport.sampling.solver.shortcut import ShortcutSolver
from flowport.sampling.solver.stochastic import Ancestral, EulerMaruyama, StochasticHeun

__all__ = [
    "DDIM",
    "RK4",
    "Ancestral",
    "Churn",
    "DPMSolver",
    "Dopri5",
    "Euler",
    "EulerMaruyama",
    "FeynmanKac",
    "FixedStep",
    "Heun",
    "MeanEnd",
    "Midpoint",
    "RungeKutta",
    "ShortcutSolver",
    "Solver",
    "StochasticHeun",
    "Tableau",
    "Trajectory",
]
