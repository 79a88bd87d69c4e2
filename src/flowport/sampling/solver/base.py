"""The interface of the solvers, and the loop of those with fixed steps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowport.errors import Checked, FlowportError, option
from flowport.field.base import Field
from flowport.sampling.dynamics import Process
from flowport.tensors import noise_like


@dataclass(frozen=True)
class Trajectory:
    """Discretised trajectory of a flow.

    Args:
        times: Times of the states, (K+1,), or (1,) where only the last state was requested.
        states: States, (K+1, B, *D) or (1, B, *D).
        nfe: Number of evaluations of the field.
    """

    times: Tensor
    states: Tensor
    nfe: int

    @property
    def end(self) -> Tensor:
        """The last state, (B, *D)."""
        return self.states[-1]


class Solver(Checked, ABC):
    """Solver of the dynamics of a flow, dX = drift dt + g dW.

    A member provides ``steps`` and ``integrate``; one with fixed steps subclasses ``FixedStep``, and one of an explicit
    Runge-Kutta method ``RungeKutta``. All randomness must come from the generator, and ``Process.held`` must be applied
    after every step where a step can move padding.

    To add a member: subclass one of these in a new module of this folder, export it in ``__init__.py``, add
    ``configs/solver/<name>.yaml`` with ``_target_`` and list it in ``SOLVERS`` of tests/zoo.py, for
    tests/laws/test_order.py and tests/laws/test_samplers.py.

    Attributes:
        order: Order of convergence, with local error O(h^(order+1)); the weak order for a stochastic solver; None for
            an adaptive solver and where there is no order.
        stochastic: Whether the solver draws noise, so that it supports a positive volatility.
        needs_score: Whether the step itself needs the score of the field, even for the zero volatility.
    """

    order: ClassVar[int | None]
    stochastic: bool = False
    needs_score: bool = False

    def accept(self, field: Field) -> None:
        """Check that this solver supports a field.

        Args:
            field: The field.

        Raises:
            FlowportError: For a field that this solver does not support.
        """
        if self.needs_score:
            field.capabilities.require_score(option("solver", self))

    @abstractmethod
    def steps(self, nfe: int) -> int:
        """The number of steps for a budget of evaluations, at least 1.

        Args:
            nfe: Maximal number of evaluations of the field.

        Raises:
            FlowportError: For a solver that chooses its own steps.
        """

    def solve(
        self, dynamics: Process, x: Tensor, times: Tensor, generator: torch.Generator, all_states: bool = False
    ) -> Trajectory:
        """Integrate the dynamics from x along the times.

        Args:
            dynamics: The process to integrate.
            x: States at the first time, (B, *D).
            times: Times (K+1,), ascending or descending.
            generator: The only source of randomness.
            all_states: Whether all K + 1 states are returned, and not only the last.

        Raises:
            FlowportError: Where the dynamics are stochastic and the solver is not.
        """
        if dynamics.stochastic and not self.stochastic:
            raise FlowportError(
                f"{type(self).__name__} is an ODE solver and cannot serve a volatility above zero: use "
                "volatility=zero, or solver=euler_maruyama or stochastic_heun"
            )
        before = dynamics.evaluations
        reported, states = self.integrate(dynamics, x, times, generator, all_states)
        return Trajectory(reported, states, dynamics.evaluations - before)

    @abstractmethod
    def integrate(
        self, dynamics: Process, x: Tensor, times: Tensor, generator: torch.Generator, all_states: bool
    ) -> tuple[Tensor, Tensor]:
        """The integration itself, without the checks of ``solve``.

        Args:
            dynamics: The process to integrate.
            x: States at the first time, (B, *D).
            times: Times (K+1,), ascending or descending.
            generator: The only source of randomness.
            all_states: Whether all K + 1 states are returned, and not only the last.

        Returns:
            Times (K+1,) and states (K+1, B, *D), or (1,) and (1, B, *D) without ``all_states``.
        """


class FixedStep(Solver):
    """Solver that takes one step from each time of the grid to the next.

    A member provides ``step``; a multistep method also overrides ``advance``.

    Attributes:
        calls: Evaluations of the field per step.
    """

    calls: int = 1

    def steps(self, nfe: int) -> int:
        return max(1, nfe // self.calls)

    def integrate(
        self, dynamics: Process, x: Tensor, times: Tensor, generator: torch.Generator, all_states: bool
    ) -> tuple[Tensor, Tensor]:
        states, grid, memory = [x], times.tolist(), None
        for k, (t, s) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            noise = noise_like(x, generator) if self.stochastic else None
            after, memory = self.advance(dynamics, x, t, s, noise, k == len(grid) - 2, memory)
            x = dynamics.masked_update(x, after)
            if all_states:
                states.append(x)
        return (times, torch.stack(states)) if all_states else (times[-1:], x[None])

    def advance(
        self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool, memory: Any
    ) -> tuple[Tensor, Any]:
        """One step, with the memory of a multistep method.

        Args:
            dynamics: The process to integrate.
            x: States at time t, (B, *D).
            t: Time before the step.
            s: Time after the step.
            noise: Standard normal (B, *D), or None for a deterministic solver.
            last: Whether this is the last step of the trajectory.
            memory: What the step before returned; None for the first step.

        Returns:
            States at time s, (B, *D), and the memory for the next step, which is None for a one-step method.
        """
        return self.step(dynamics, x, t, s, noise, last), None

    @abstractmethod
    def step(self, dynamics: Process, x: Tensor, t: float, s: float, noise: Tensor | None, last: bool) -> Tensor:
        """The states at time s, (B, *D).

        Args:
            dynamics: The process to integrate.
            x: States at time t, (B, *D).
            t: Time before the step.
            s: Time after the step.
            noise: Standard normal (B, *D), or None for a deterministic solver.
            last: Whether this is the last step of the trajectory.
        """


def require_forward(solver: str, t: float, s: float) -> None:
    """Check that a step leads towards the target.

    Args:
        solver: Config name of the solver, for the message.
        t: Time before the step.
        s: Time after the step.

    Raises:
        FlowportError: Unless s > t.
    """
    if s <= t:
        raise FlowportError(
            f"solver={solver} runs from source to target only: use an ODE solver for direction=backward"
        )
