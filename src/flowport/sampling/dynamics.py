"""What solvers integrate: any process dX = b(X, t) dt + g(t) dW, and a field in motion.

dX = (v ± g²/2 · s) dt + g dW has the field's marginals p_t for every volatility g(t) ≥ 0, with + forwards in time and −
backwards (Anderson 1982; Albergo et al. 2023). g = 0 is the ODE.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from flowport.errors import FlowportError, option
from flowport.field.base import Field
from flowport.sampling.volatility import Volatility
from flowport.tensors import over
from flowport.types import Condition


class Process(ABC):
    """dX = drift(X, t) dt + diffusion(t) dW, also along descending times (then |dt| is the variance of dW).

    stochastic: whether diffusion > 0 anywhere. evaluations: how often a field was called.
    """

    stochastic: bool = True
    evaluations: int = 0

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """b(x, t), (B, *D), of x (B, *D) and t (B,)."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), (B,)."""

    def flow(self) -> "Dynamics":
        """This process as a field in motion, for solvers that ask more than drift and diffusion.

        Raises FlowportError: a plain process has no field.
        """
        raise FlowportError(
            f"{type(self).__name__} is a process without a flow's velocity and end points: use solver=euler_maruyama "
            "or solver=stochastic_heun with noiseless_end=false"
        )

    def held(self, before: Tensor, after: Tensor) -> Tensor:
        """``after`` a step from ``before``, (B, *D), but where nothing may move."""
        return after

    def times(self, t: float | Tensor, x: Tensor) -> Tensor:
        """One time for every row of x."""
        return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(x.shape[0])


class Dynamics(Process):
    """drift(x, t) and diffusion(t) of a field under one condition; ``evaluations`` counts calls of the field.

    mask: (B, *D) bool; where it is False nothing moves, for what is padding was never learnt.
    Raises FlowportError where a volatility is wanted that the field's score cannot serve.
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

    def held(self, before: Tensor, after: Tensor) -> Tensor:
        return after if self.mask is None else torch.where(self.mask, after, before)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """v(x, t), the drift of the ODE. x (B, *D), t (B,)."""
        self.evaluations += 1
        return self._masked(self.field.velocity(x, t, self.condition))

    def average_velocity(self, x: Tensor, t: Tensor, step: float) -> Tensor:
        """The mean velocity over a step from t, of a field that learnt it."""
        self.evaluations += 1
        return self._masked(self.field.average_velocity(x, t, self.times(step, x), self.condition))

    def _masked(self, drift: Tensor) -> Tensor:
        return drift if self.mask is None else torch.where(self.mask, drift, 0)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """v ± g²/2 · s, from one call of the field."""
        if not self.stochastic:
            return self.velocity(x, t)
        self.evaluations += 1
        velocity, score = self.field.velocity_and_score(x, t, self.condition)
        g = over(self.diffusion(t), x)
        return self._masked(velocity + self.sign * 0.5 * g**2 * score)

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), (B,)."""
        return self.volatility(t, self.field.path, self.field.capabilities.role)

    def endpoints(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """E[x0 | x], E[x1 | x], E[z | x]."""
        self.evaluations += 1
        return self.field.endpoints(x, t, self.condition)
