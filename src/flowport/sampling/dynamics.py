"""Dynamics that solvers integrate: diffusion processes dX = b(X, t) dt + g(t) dW, and those of a field.

A field of velocity v and score s = ∇ log p_t generates, for every volatility g(t) ≥ 0, an SDE with the marginals p_t:

    dX = (v ± g²/2 · s) dt + g dW,

with + forwards in time and − backwards. For g = 0 it is the probability-flow ODE.

References:
    Anderson 1982, "Reverse-time diffusion equation models", doi:10.1016/0304-4149(82)90051-5.
    Song et al. 2021, "Score-based generative modeling through stochastic differential equations", arXiv:2011.13456.
    Albergo et al. 2023, "Stochastic interpolants: a unifying framework for flows and diffusions", arXiv:2303.08797.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from flowport.errors import Checked, FlowportError, option
from flowport.field.base import Field
from flowport.sampling.volatility import Volatility
from flowport.tensors import over
from flowport.types import Condition


class Process(Checked, ABC):
    """Diffusion process dX = b(X, t) dt + g(t) dW, integrated along ascending or descending times.

    A member provides ``drift`` and ``diffusion``. Along descending times dt is negative and dW has the variance |dt|.

    To add a member: subclass this class, or ``ClosedFormProcess`` in ``flowport.sampling.process`` where the law is
        known,
    which has a config group.

    Attributes:
        stochastic: Whether the diffusion is positive anywhere.
        evaluations: Number of evaluations of a field so far.
    """

    stochastic: bool = True
    evaluations: int = 0

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """The drift b(x, t), (B, *D).

        Args:
            x: Points (B, *D).
            t: Times (B,).
        """

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """The diffusion coefficient g(t), (B,).

        Args:
            t: Times (B,).
        """

    def flow(self) -> "Dynamics":
        """This process as the dynamics of a field, for solvers that need velocities or end points.

        Raises:
            FlowportError: For a process without a field.
        """
        raise FlowportError(
            f"{type(self).__name__} is a process without a flow's velocity and end points: use solver=euler_maruyama "
            "or solver=stochastic_heun with noiseless_end=false"
        )

    def masked_update(self, before: Tensor, after: Tensor) -> Tensor:
        """The state after a step, with the coordinates that must not move reset, (B, *D).

        Args:
            before: States before the step, (B, *D).
            after: States after the step, (B, *D).
        """
        return after

    def times(self, t: float | Tensor, x: Tensor) -> Tensor:
        """One time expanded over the rows of x, (B,).

        Args:
            t: The time, a number or ().
            x: Points (B, *D), which determine the number of rows, dtype and device.
        """
        return (t.to(x) if isinstance(t, Tensor) else x.new_full((), t)).expand(x.shape[0])  # which copies nothing


class Dynamics(Process):
    """Generative dynamics dX = (v ± g²/2 · s) dt + g dW of a field under one condition.

    Every call of the field adds 1 to ``evaluations``.

    Args:
        field: The field of velocity v and, where g > 0, score s.
        condition: The condition of all B rows.
        volatility: g(t).
        backward: Whether it is integrated from the target to the source, for the sign of the score.
        mask: Bool (B, *D), False at padding, which does not move; None where all coordinates move.

    Raises:
        FlowportError: For a stochastic volatility and a field without a score.
    """

    def __init__(
        self,
        field: Field,
        condition: Condition,
        volatility: Volatility,
        backward: bool = False,
        mask: Tensor | None = None,
    ) -> None:
        if volatility.stochastic:
            field.capabilities.require_score(option("volatility", volatility))
        self.field, self.condition, self.volatility, self.mask = field, condition, volatility, mask
        self.sign = -1.0 if backward else 1.0
        self.stochastic = volatility.stochastic

    def flow(self) -> "Dynamics":
        return self

    def masked_update(self, before: Tensor, after: Tensor) -> Tensor:
        return after if self.mask is None else torch.where(self.mask, after, before)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity v(x, t), which is the drift of the ODE, (B, *D).

        Args:
            x: Points (B, *D).
            t: Times (B,).
        """
        self.evaluations += 1
        return self._masked(self.field.velocity(x, t, self.condition))

    def average_velocity(self, x: Tensor, t: Tensor, step: float) -> Tensor:
        """The mean velocity over the time from t to t + step, (B, *D), of a field that was trained for it.

        Args:
            x: Points (B, *D).
            t: Times (B,).
            step: Length of the step, at least 0.
        """
        self.evaluations += 1
        return self._masked(self.field.average_velocity(x, t, self.times(step, x), self.condition))

    def _masked(self, drift: Tensor) -> Tensor:
        return drift if self.mask is None else torch.where(self.mask, drift, 0)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """The drift v ± g²/2 · s, (B, *D), from one evaluation of the field.

        Args:
            x: Points (B, *D).
            t: Times (B,).
        """
        if not self.stochastic:
            return self.velocity(x, t)
        self.evaluations += 1
        velocity, score = self.field.velocity_and_score(x, t, self.condition)
        g = over(self.diffusion(t), x)
        return self._masked(velocity + self.sign * 0.5 * g**2 * score)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.volatility(t, self.field.path, self.field.capabilities.role)

    def endpoints(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """E[x0 | x_t], E[x1 | x_t] and E[z | x_t], each (B, *D); the last is None on a path without noise z.

        Args:
            x: Points (B, *D).
            t: Times (B,).
        """
        self.evaluations += 1
        return self.field.endpoints(x, t, self.condition)


class FunctionProcess(Process):
    """The ODE dX = v(X, t) dt of a plain function.

    Args:
        velocity: v(x, t) of x (B, *D) and t (B,).
    """

    stochastic = False

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = velocity

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        self.evaluations += 1
        return self.function(x, t)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


@contextmanager
def evaluation_mode(field: Field) -> Iterator[None]:
    """A context in which a field is in evaluation mode; its mode is restored after it, also after an error.

    Args:
        field: The field.
    """
    was_training = field.training
    field.eval()
    try:
        yield
    finally:
        field.train(was_training)
