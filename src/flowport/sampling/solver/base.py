"""Solvers: how dynamics are integrated. The loop stands once, here; a member is a step or a tableau."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowport.errors import FlowportError, option
from flowport.field.base import Field
from flowport.sampling.dynamics import Process


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
    stochastic: bool = False
    needs_score: bool = False

    def accept(self, field: Field) -> None:
        """Raise FlowportError for a field that this solver cannot serve."""
        if self.needs_score:
            field.capabilities.require_score(option("solver", self))

    @abstractmethod
    def steps(self, nfe: int) -> int:
        """How many steps cost at most ``nfe`` evaluations of the field, at least one. Raises FlowportError where
        unknown."""

    def solve(
        self, dynamics: Process, x: Tensor, times: Tensor, generator: torch.Generator, keep: bool = False
    ) -> Trajectory:
        """Integrate x (B, *D) along times (K+1,), ascending or descending. ``keep``: return every state.

        Raises FlowportError where the dynamics are stochastic and the solver is not.
        """
        if dynamics.stochastic and not self.stochastic:
            raise FlowportError(
                f"{type(self).__name__} is an ODE solver and cannot serve a volatility above zero: use "
                "volatility=zero, or solver=euler_maruyama or stochastic_heun"
            )
        before = dynamics.evaluations
        kept, states = self.integrate(dynamics, x, times, generator, keep)
        return Trajectory(kept, states, dynamics.evaluations - before)

    @abstractmethod
    def integrate(
        self, dynamics: Process, x: Tensor, times: Tensor, generator: torch.Generator, keep: bool
    ) -> tuple[Tensor, Tensor]:
        """(times kept, states kept)."""


class FixedStep(Solver):
    """One ``step`` from each grid time to the next; the noise of every step comes from the generator.

    calls: evaluations of the field in a step.
    """

    calls: int = 1

    def steps(self, nfe: int) -> int:
        return max(1, nfe // self.calls)

    def integrate(
        self, dynamics: Process, x: Tensor, times: Tensor, generator: torch.Generator, keep: bool
    ) -> tuple[Tensor, Tensor]:
        states, grid, memory = [x], times.tolist(), None
        for k, (t, s) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            noise = None
            if self.stochastic:
                noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            after, memory = self.advance(dynamics, x, t, s, noise, k == len(grid) - 2, memory)
            x = dynamics.held(x, after)
            if keep:
                states.append(x)
        return (times, torch.stack(states)) if keep else (times[-1:], x[None])

    def advance(
        self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool, memory: Any
    ) -> tuple[Tensor, Any]:
        """The step, and what it leaves to the next one of this trajectory; the first gets None. One-step methods
        leave nothing."""
        return self.step(dynamics, x, t, s, noise, last), None

    @abstractmethod
    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        """From x (B, *D) at t to time s; ``noise`` (B, *D) standard normal for stochastic members."""


def forwards(solver: str, t: float, s: float) -> None:
    """Raise FlowportError unless a step leads towards the target."""
    if s <= t:
        raise FlowportError(
            f"solver={solver} runs from source to target only: use an ODE solver for direction=backward"
        )
