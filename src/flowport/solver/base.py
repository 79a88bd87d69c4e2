"""Solvers: how dynamics are integrated. The loop stands once, here; a member is a step or a tableau."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowport.dynamics import Dynamics
from flowport.errors import Refusal


@dataclass(frozen=True)
class Trajectory:
    """times: (K+1,); states: (K+1, B, *D), or the last alone with times (1,); nfe: evaluations of the field."""

    times: Tensor
    states: Tensor
    nfe: int

    @property
    def end(self) -> Tensor:
        """The last state, (B, *D)."""
        return self.states[-1]


class Solver(ABC):
    """order: local error h^(order+1) (weak order for stochastic solvers); None where it is adaptive or not an order.
    stochastic: whether it may serve a volatility above zero. needs_score: whether its own step rests on the score."""

    order: ClassVar[int | None]
    stochastic: ClassVar[bool] = False
    needs_score: ClassVar[bool] = False

    def solve(self, dynamics: Dynamics, x: Tensor, times: Tensor, generator: torch.Generator,
              keep: bool = False) -> Trajectory:  # fmt: skip
        """Integrate x (B, *D) along times (K+1,), ascending or descending. ``keep``: return every state.

        Raises Refusal where the dynamics are stochastic and the solver is not.
        """
        if dynamics.stochastic and not self.stochastic:
            raise Refusal(
                f"{type(self).__name__} is an ODE solver and cannot serve a volatility above zero: use "
                "volatility=zero, or solver=euler_maruyama or stochastic_heun"
            )
        before = dynamics.evaluations
        kept, states = self.integrate(dynamics, x, times, generator, keep)
        return Trajectory(kept, states, dynamics.evaluations - before)

    @abstractmethod
    def integrate(self, dynamics: Dynamics, x: Tensor, times: Tensor, generator: torch.Generator,
                  keep: bool) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(times kept, states kept)."""


class FixedStep(Solver):
    """One ``step`` from each grid time to the next; the noise of every step comes from the generator."""

    def integrate(self, dynamics: Dynamics, x: Tensor, times: Tensor, generator: torch.Generator,
                  keep: bool) -> tuple[Tensor, Tensor]:  # fmt: skip
        states, grid = [x], times.tolist()
        for k, (t, s) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            noise = None
            if self.stochastic:
                noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = self.step(dynamics, x, t, s, noise, last=k == len(grid) - 2)
            if keep:
                states.append(x)
        return (times, torch.stack(states)) if keep else (times[-1:], x[None])

    @abstractmethod
    def step(self, dynamics: Dynamics, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        """From x (B, *D) at t to time s; ``noise`` (B, *D) standard normal for stochastic members."""
