"""What a network's output means, through one hub.

Every prediction maps to the hub (x, velocity, noise) and from it, so n predictions need 2n maps. The algebra is one
2×2 system: the conditional means x̂0, x̂1, ẑ = E[· | x_t = x] obey

    α x̂0 + β x̂1 + γ ẑ = x,      α̇ x̂0 + β̇ x̂1 + γ̇ ẑ = v,

three unknowns, of which one is known or absent: ẑ without noise (γ = 0), x̂0 = x0 where the field sees its start.
A bridge whose field is blind to x0 needs a second head for ẑ. What is undefined raises FlowportError.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path, PathSample
from flowport.tensors import clamped

MARGIN = 1e-3
"""How far inside [0, 1] an output is read that is divided by a vanishing path weight."""


@dataclass(frozen=True)
class FlowState:
    """x, velocity E[ẋ | x] and noise E[z | x] (None without a bridge or where it is unknown), each (B, *D)."""

    x: Tensor
    velocity: Tensor
    noise: Tensor | None = None


def solve(p: Tensor, q: Tensor, dp: Tensor, dq: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """(A, B) with p A + q B = y and dp A + dq B = w."""
    determinant = p * dq - dp * q
    return (dq * y - q * w) / determinant, (p * w - dp * y) / determinant


def endpoints(
    flow_state: FlowState, coefficients: Coefficients, start: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x̂0, x̂1, ẑ from the hub. ``start``: x0 (B, *D) where the field sees it and the path is a bridge, else None.

    Raises FlowportError for a bridge with neither a start nor a noise estimate.
    """
    c = coefficients.over(flow_state.x)
    if c.gamma is None or c.dgamma is None:
        source, target = solve(c.alpha, c.beta, c.dalpha, c.dbeta, flow_state.x, flow_state.velocity)
        return source, target, None
    if start is not None:
        rest, slope = flow_state.x - c.alpha * start, flow_state.velocity - c.dalpha * start
        target, noise = solve(c.beta, c.gamma, c.dbeta, c.dgamma, rest, slope)
        return start, target, noise
    if flow_state.noise is None:
        raise FlowportError(
            "one velocity head cannot give the end points of a bridge that does not see its start: use "
            "prediction=bridge (a second head) or conditioning=source"
        )
    rest, slope = flow_state.x - c.gamma * flow_state.noise, flow_state.velocity - c.dgamma * flow_state.noise
    source, target = solve(c.alpha, c.beta, c.dalpha, c.dbeta, rest, slope)
    return source, target, flow_state.noise


def velocity_of(source: Tensor, target: Tensor, noise: Tensor | None, coefficients: Coefficients) -> Tensor:
    """v = α̇ x̂0 + β̇ x̂1 + γ̇ ẑ."""
    c = coefficients.over(source)
    velocity = c.dalpha * source + c.dbeta * target
    return velocity if noise is None or c.dgamma is None else velocity + c.dgamma * noise


class Prediction(ABC):
    """heads: how many tensors of the event's shape the network returns.
    resolves_blind_bridge: whether it is defined on a bridge whose field does not see its start.
    needs_bridge: defined only with bridge noise. needs_unknown_source: pointless where the field sees x0.
    is_score: regresses on the score, so there must be one."""

    heads: ClassVar[int] = 1
    resolves_blind_bridge: ClassVar[bool] = False
    needs_bridge: ClassVar[bool] = False
    needs_unknown_source: ClassVar[bool] = False
    is_score: ClassVar[bool] = False

    def clamp(self, path: Path, t: Tensor) -> Tensor:
        """t moved to where this output determines a finite velocity. An end point or a score is divided by a weight
        that vanishes at an end, so those stay a margin away from both."""
        return clamped(path.clamp(t), MARGIN, 1 - MARGIN)

    @abstractmethod
    def target(self, path: Path, sample: PathSample) -> Tensor:
        """What to regress the output on, (B, heads·C, …)."""

    @abstractmethod
    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
        """From the network's output to the hub."""

    @abstractmethod
    def output(self, flow_state: FlowState, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        """From the hub to what a perfect network would have returned."""
