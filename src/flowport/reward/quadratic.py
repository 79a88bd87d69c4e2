"""Rewards whose tilts have a closed form: they map a Gaussian to a Gaussian and a mixture of Gaussians to a mixture."""

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
    """Linear reward r = cᵀx of the flattened point; it tilts N(m, S) to N(m + S c, S).

    Args:
        c: The vector, (d,), float64.

    Raises:
        FlowportError: When c is not a list of numbers.
    """

    c: Tensor

    def __init__(self, c: Numbers) -> None:
        super().__init__()
        self.register_buffer("c", vector("c", c), persistent=False)

    def check(self, source: Distribution, target: Distribution) -> None:
        require_size(self, len(self.c), target)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return x1.flatten(1) @ self.c.to(x1.dtype)


@final
class QuadraticReward(Reward):
    """Quadratic reward r = cᵀx − ½ xᵀQx of the flattened point.

    It tilts N(m, S) to N(S′(S⁻¹m + c), S′) with S′ = (S⁻¹ + Q)⁻¹. The tilt exists where S⁻¹ + Q is positive definite.

    Args:
        c: The vector, (d,), float64.
        q: The symmetric matrix Q, (d, d), or a number for that multiple of the identity; float64.

    Raises:
        FlowportError: When c is not a list of numbers or Q is not a symmetric matrix of its size.
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
        require_size(self, len(self.c), target)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        x = x1.flatten(1)
        return x @ self.c.to(x.dtype) - (x @ self.q.to(x.dtype) * x).sum(1) / 2


def vector(key: str, value: Numbers) -> Tensor:
    """A list of numbers as a vector, (d,) float64.

    Args:
        key: Name of the option in messages.
        value: The numbers.

    Raises:
        FlowportError: For a single number, and for what is not numbers.
    """
    found = numbers(f"reward.{key}", value, torch.float64)
    if found.ndim == 0:
        raise FlowportError(
            f"reward.{key} is {value}; it must be a list with one number for each coordinate of a point"
        )
    return found.flatten()


def require_size(reward: Reward, size: int, target: Distribution) -> None:
    """Check the number of coordinates of target points.

    Args:
        reward: The reward, named in the message.
        size: Number of coordinates that it takes.
        target: The target.

    Raises:
        FlowportError: When points of the target have another number.
    """
    found = torch.Size(target.event_shape).numel()
    if found != size:
        raise FlowportError(
            f"reward={reward.called} is for points of {size} numbers, but those of the target have {found}, "
            f"{target.event_shape}"
        )
