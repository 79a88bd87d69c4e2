"""Rewards whose tilts are known in closed form: a Gaussian stays Gaussian, a mixture a mixture."""

from typing import final

import torch
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.distribution.parameter import Numbers, numbers
from flowport.errors import FlowportError
from flowport.reward.base import Reward
from flowport.types import Condition


@final
class LinearReward(Reward):
    """r = cᵀx, x flattened. N(m, S) tilted by e^r is N(m + S c, S).

    c: (d,), kept in float64. Raises FlowportError where the points do not have d numbers.
    """

    c: Tensor

    def __init__(self, c: Numbers) -> None:
        super().__init__()
        self.register_buffer("c", vector("c", c), persistent=False)

    def check(self, source: Distribution, target: Distribution) -> None:
        refuse_other_size(self, len(self.c), target)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return x1.flatten(1) @ self.c.to(x1.dtype)


@final
class QuadraticReward(Reward):
    """r = cᵀx − ½ xᵀQx, x flattened. N(m, S) tilted by e^r is N(S′(S⁻¹m + c), S′), S′ = (S⁻¹ + Q)⁻¹.

    c: (d,); q: Q symmetric (d, d), or a number for that multiple of the identity; kept in float64. A Q with negative
    eigenvalues needs data that fall off faster. Raises FlowportError for other sizes.
    """

    c: Tensor
    q: Tensor

    def __init__(self, c: Numbers, q: Numbers = 1.0) -> None:
        super().__init__()
        self.register_buffer("c", vector("c", c), persistent=False)
        found, d = numbers("reward.q", q, torch.float64), len(self.c)
        square = found * torch.eye(d, dtype=torch.float64) if found.ndim == 0 else found
        if square.shape != (d, d) or not torch.equal(square, square.T):
            raise FlowportError(
                f"reward.q has the shape {tuple(found.shape)}; it must be a number or a symmetric matrix "
                f"{(d, d)}, for reward.c has {d} numbers"
            )
        self.register_buffer("q", square, persistent=False)

    def check(self, source: Distribution, target: Distribution) -> None:
        refuse_other_size(self, len(self.c), target)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        x = x1.flatten(1)
        return x @ self.c.to(x.dtype) - (x @ self.q.to(x.dtype) * x).sum(1) / 2


def vector(key: str, value: Numbers) -> Tensor:
    """A list of numbers as (d,) float64."""
    found = numbers(f"reward.{key}", value, torch.float64)
    if found.ndim == 0:
        raise FlowportError(
            f"reward.{key} is {value}; it must be a list with one number for each coordinate of a point"
        )
    return found.flatten()


def refuse_other_size(reward: Reward, size: int, target: Distribution) -> None:
    """Raises FlowportError unless points of the target have ``size`` numbers."""
    found = torch.Size(target.event_shape).numel()
    if found != size:
        raise FlowportError(
            f"reward={reward.called} is for points of {size} numbers, but those of the target have {found}, "
            f"{target.event_shape}"
        )
