"""Predictions: what a network's output means, and the conversions between them.

Every prediction is converted to and from the flow state (x, velocity, noise), so n predictions need 2n maps. The
conditional means x̂0, x̂1, ẑ = E[· | x_t = x] and the velocity v solve the linear system

    α x̂0 + β x̂1 + γ ẑ = x,      α̇ x̂0 + β̇ x̂1 + γ̇ ẑ = v

with three unknowns. One of them is absent or given: ẑ on a path without noise (γ = 0), x̂0 = x0 where the field is
conditioned on its start, ẑ where a second head predicts it (a bridge whose field is not conditioned on x0). What is
undefined raises FlowportError.

References:
    Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        arXiv:2303.08797.
    Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv:2202.00512.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.errors import Checked, FlowportError
from flowport.path.base import Coefficients, Path, PathSample
from flowport.tensors import clamped

MARGIN = 1e-3
"""Distance from t = 0 and t = 1 within which outputs that are divided by a vanishing path weight are not used."""


@dataclass(frozen=True)
class FlowState:
    """The velocity and noise estimates of a field at points x, the common form of all predictions.

    Args:
        x: Points, (B, *D).
        velocity: E[ẋ_t | x_t = x], (B, *D).
        noise: E[z | x_t = x], (B, *D); None on a path without noise or where it is not estimated.
    """

    x: Tensor
    velocity: Tensor
    noise: Tensor | None = None


def solve(p: Tensor, q: Tensor, dp: Tensor, dq: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The solution (A, B) of p A + q B = y, dp A + dq B = w.

    Args:
        p: First coefficient of the first equation.
        q: Second coefficient of the first equation.
        dp: First coefficient of the second equation.
        dq: Second coefficient of the second equation.
        y: Right-hand side of the first equation.
        w: Right-hand side of the second equation; all broadcast together.
    """
    determinant = p * dq - dp * q
    return (dq * y - q * w) / determinant, (p * w - dp * y) / determinant


def endpoints(
    flow_state: FlowState, coefficients: Coefficients, start: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The conditional means x̂0, x̂1 and ẑ of a flow state.

    Args:
        flow_state: Points, velocity and, for a bridge, possibly the noise estimate, (B, *D) each.
        coefficients: Path coefficients at the times of the points, (B,) each.
        start: x0, (B, *D), where the path is a bridge and the field is conditioned on its start; otherwise None.

    Returns:
        x̂0, x̂1 and ẑ, (B, *D) each; ẑ is None on a path without noise.

    Raises:
        FlowportError: When the path is a bridge and neither ``start`` nor a noise estimate is given.
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
    """The velocity v = α̇ x̂0 + β̇ x̂1 + γ̇ ẑ, (B, *D).

    Args:
        source: x̂0, (B, *D).
        target: x̂1, (B, *D).
        noise: ẑ, (B, *D); None counts as zero.
        coefficients: Path coefficients, (B,) each.
    """
    c = coefficients.over(source)
    velocity = c.dalpha * source + c.dbeta * target
    return velocity if noise is None or c.dgamma is None else velocity + c.dgamma * noise


class Prediction(Checked, ABC):
    """The meaning of a network's output: a regression target, and its conversion to and from a flow state.

    A member provides ``target``, ``flow_state`` and ``output``, and declares the attributes below.
    ``output(flow_state(o)) = o`` wherever it is defined, and E[target | x_t = x] is the output of a perfect network.

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py``, add
    ``configs/prediction/<name>.yaml`` with ``_target_`` and list it in ``PREDICTIONS`` of tests/zoo.py, over which the
    tests of tests/laws run.

    Attributes:
        heads: Number of tensors of the event's shape in the output.
        defined_without_source: Whether it is defined on a bridge whose field is not conditioned on its start x0.
        needs_bridge: Whether it is defined only on paths with noise.
        needs_unknown_source: Whether it is trivial where the field is conditioned on x0.
        is_score: Whether the output is the score, which must therefore exist.
    """

    heads: ClassVar[int] = 1
    defined_without_source: ClassVar[bool] = False
    needs_bridge: ClassVar[bool] = False
    needs_unknown_source: ClassVar[bool] = False
    is_score: ClassVar[bool] = False

    def clamp(self, path: Path, t: Tensor) -> Tensor:
        """The times moved to where the output determines a finite velocity.

        An end point or a score is divided by a path weight that vanishes at an end, so these times keep the distance
        ``MARGIN`` from both ends.

        Args:
            path: The path, whose interval is respected.
            t: Times, (B,).
        """
        return clamped(path.clamp(t), MARGIN, 1 - MARGIN)

    def fitted(self, source: Distribution, target: Distribution, bridge: bool) -> "Prediction":
        """This prediction with what it measures of the data; itself unless a member overrides it.

        Args:
            source: The source.
            target: The target.
            bridge: Whether the path has noise.
        """
        return self

    def input_scale(self, path: Path, t: Tensor) -> Tensor | None:
        """The factor c_in, (B,), by which the points that the network sees are multiplied; None stands for 1.

        Args:
            path: The path of the points.
            t: Their times, (B,).
        """
        return None

    def network_time(self, path: Path, t: Tensor) -> Tensor:
        """The time that the network sees, (B,); t itself unless a member overrides it.

        Args:
            path: The path of the points.
            t: Their times, (B,).
        """
        return t

    def times(self, path: Path, u: Tensor) -> tuple[Tensor, Tensor]:
        """The times t at which it is trained, for draws u of a law on [0, 1], and their slope dt/du.

        By default [0, 1] is mapped linearly onto the times that ``clamp`` leaves.

        Args:
            path: The path.
            u: Draws in [0, 1], (B,).

        Returns:
            t and dt/du, (B,) each.
        """
        low, high = _ends(self, path)
        return (low + (high - low) * u if (low, high) != (0, 1) else u), torch.full_like(u, high - low)

    @abstractmethod
    def target(self, path: Path, sample: PathSample) -> Tensor:
        """The regression target of the output.

        Args:
            path: The path of the sample.
            sample: Points of the path, B rows.

        Returns:
            Tensor (B, heads·C, …).
        """

    @abstractmethod
    def flow_state(self, output: Tensor, x: Tensor, coefficients: Coefficients, start: Tensor | None) -> FlowState:
        """The flow state of an output.

        Args:
            output: Output of the network, (B, heads·C, …).
            x: Points, (B, *D).
            coefficients: Path coefficients at the times of the points, (B,) each.
            start: x0, (B, *D), where the path is a bridge and the field is conditioned on its start; otherwise None.

        Raises:
            FlowportError: When the output does not determine the velocity.
        """

    @abstractmethod
    def output(self, flow_state: FlowState, coefficients: Coefficients, start: Tensor | None) -> Tensor:
        """The output of a perfect network with this flow state, (B, heads·C, …).

        Args:
            flow_state: Points, velocity and possibly the noise estimate, (B, *D) each.
            coefficients: Path coefficients at the times of the points, (B,) each.
            start: x0, (B, *D), where the path is a bridge and the field is conditioned on its start; otherwise None.

        Raises:
            FlowportError: When the flow state does not determine the output.
        """


@lru_cache(maxsize=64)
def _ends(prediction: Prediction, path: Path) -> tuple[float, float]:
    """The first and the last time at which a prediction is finite on a path."""
    low, high = prediction.clamp(path, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return low, high
