"""Exact moments of a solver: on a Gaussian oracle every step is affine, x' = M x + N ξ + c, so means and covariances
follow without sampling."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from flowport.field import Field
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.solver import FixedStep
from flowport.sampling.volatility import Volatility
from flowport.types import Condition

F64 = torch.float64


@dataclass(frozen=True)
class Moments:
    """Mean (d,), covariance (d, d), and memory (d, d): the covariance with the start."""

    mean: Tensor
    covariance: Tensor
    memory: Tensor

    @classmethod
    def start(cls, mean: Tensor, covariance: Tensor) -> "Moments":
        return cls(mean, covariance, covariance)

    def correlation(self, start: "Moments") -> Tensor:
        """Of every coordinate with its own start, (d,)."""
        own, first = self.covariance.diagonal(), start.covariance.diagonal()
        return self.memory.diagonal() / (own * first).sqrt()

    def distance(self, mean: Tensor, covariance: Tensor) -> float:
        return float((self.mean - mean).norm() + (self.covariance - covariance).norm())


def affine(solver: FixedStep, dynamics: Dynamics, d: int, t: float, s: float, last: bool) -> tuple[Tensor, ...]:
    """(M, N, c) of one step, read off at the origin and the unit vectors of x and of the noise."""
    eye, zero = torch.eye(d, dtype=F64), torch.zeros(d, d, dtype=F64)
    x = torch.cat([zero[:1], eye, zero])
    noise = torch.cat([zero[:1], zero, eye])
    out = solver.step(dynamics, x, t, s, noise, last)
    return (out[1 : d + 1] - out[0]).T, (out[d + 1 :] - out[0]).T, out[0]


def push(
    solver: FixedStep,
    field: Field,
    volatility: Volatility,
    times: Tensor,
    start: Moments,
    x0: Tensor | None = None,
    last: bool = True,
) -> list[Moments]:
    """Moments at every time of the grid. x0 (d,): the start that the field sees. last: whether the grid's last step is
    the solver's last one."""
    d = len(start.mean)
    condition = Condition(source=None if x0 is None else x0.expand(2 * d + 1, d))
    dynamics = Dynamics(field, condition, volatility, backward=bool(times[-1] < times[0]))
    states, grid = [start], times.tolist()
    for k, (t, s) in enumerate(itertools.pairwise(grid)):
        m, n, c = affine(solver, dynamics, d, t, s, last and k == len(grid) - 2)
        now = states[-1]
        states.append(Moments(m @ now.mean + c, m @ now.covariance @ m.T + n @ n.T, m @ now.memory))
    return states


def reached(
    solver: FixedStep, field: Field, volatility: Volatility, times: Tensor, mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and covariance at the end of a grid, also of solvers with a memory: the whole run is affine in its start and
    the noise of every step, read off at the origin and at each of their unit vectors."""
    d, grid = len(mean), times.tolist()
    rows = torch.eye(d * len(grid), dtype=F64)
    unit = torch.cat([torch.zeros(1, len(rows), dtype=F64), rows]).unflatten(1, (len(grid), d))
    dynamics = Dynamics(field, Condition(), volatility)
    x, memory = unit[:, 0], None
    for k, (t, s) in enumerate(itertools.pairwise(grid)):
        x, memory = solver.advance(dynamics, x, t, s, unit[:, k + 1], k == len(grid) - 2, memory)
    m, n = (x[1:] - x[0]).split([d, len(rows) - d])
    return m.T @ mean + x[0], m.T @ covariance @ m + n.T @ n
