"""The interface of the fields: velocity, score and end points from one output on a path."""

from abc import ABC, abstractmethod
from dataclasses import replace

from torch import Tensor, nn

from flowport.capabilities import Capabilities
from flowport.conditioning import Conditioning
from flowport.errors import Checked, FlowportError
from flowport.network.pieces import in_pieces
from flowport.path.base import Path
from flowport.prediction.base import MARGIN, FlowState, Prediction, endpoints
from flowport.tensors import clamped
from flowport.types import Condition


class Field(Checked, nn.Module, ABC):
    """A function of (x, t, condition) whose output is read by a prediction on a path.

    A member provides ``forward``, the output in the parametrisation of its prediction. Velocity, score and end points
    follow by linear conversions (``flowport.prediction``). Times outside the path's interval are moved to its nearest
    end, so all of [0, 1] gives finite numbers. The exact field has v(x, t) = E[ẋ_t | x_t = x], whose flow carries p0
    to p1 for any coupling.

    To add a member: subclass this class in a new module of this folder and export it in ``__init__.py``; a field that
    modifies another one belongs in ``flowport.field.guidance``, with ``configs/guidance/<name>.yaml`` (``_target_`` and
    ``_partial_: true``). Its tests belong in tests/field.

    Args:
        path: Probability path x_t = α x0 + β x1 + γ z.
        prediction: What the output means.
        conditioning: What the field is a function of beside x and t.
        capabilities: The role of the path's noise, and whether the field has a score.

    Attributes:
        sees_step: Whether the field also has the mean velocity over a step.
        piece_rows: Rows that ``forward`` evaluates at a time (``flowport.network.pieces``); None for all.
    """

    sees_step: bool = False
    piece_rows: int | None = None

    def __init__(
        self, path: Path, prediction: Prediction, conditioning: Conditioning, capabilities: Capabilities
    ) -> None:
        super().__init__()
        self.path, self.prediction, self.conditioning, self.capabilities = path, prediction, conditioning, capabilities

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """``forward`` in pieces."""
        return in_pieces(super().__call__, self.piece_rows, x, t, condition, self.training)

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Output in the parametrisation of ``prediction``, (B, heads·C, *rest).

        Args:
            x: Points, (B, *D) with D = (C, *rest).
            t: Times in the path's interval, (B,).
            condition: Labels, sources and step lengths of the rows.
        """

    def output(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The output for points of any precision, in their precision; training and evaluation call this.

        Args:
            x: Points, (B, *D).
            t: Times in the path's interval, (B,).
            condition: Labels, sources and step lengths of the rows.
        """
        return self(x, t, condition)

    def start(self, condition: Condition) -> Tensor | None:
        """x0 (B, *D) where the conversions need it, on a bridge whose field is a function of x0; otherwise None.

        Args:
            condition: The condition of the rows.
        """
        return condition.source if self.path.bridge and self.conditioning.sees_source else None

    def flow_state(self, x: Tensor, t: Tensor, condition: Condition) -> FlowState:
        """Points, velocity and noise (x, v, E[z | x]) at (x, t).

        Args:
            x: Points, (B, *D).
            t: Times, (B,), in the interval in which the prediction is finite.
            condition: Labels, sources and step lengths of the rows.
        """
        output = self.output(x, t, condition)
        return self.prediction.flow_state(output, x, self.path.coefficients(t), self.start(condition))

    def velocity(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Velocity v(x, t) = E[ẋ_t | x_t = x], (B, *D).

        Args:
            x: Points, (B, *D).
            t: Times in [0, 1], (B,).
            condition: Labels, sources and step lengths of the rows.
        """
        return self.flow_state(x, self.prediction.clamp(self.path, t), condition).velocity

    def average_velocity(self, x: Tensor, t: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """Mean velocity (X_{t,t+d}(x) − x)/d of the flow X of the ODE, (B, *D); the velocity itself at d = 0.

        Args:
            x: Points, (B, *D).
            t: Times in [0, 1], (B,).
            step: Step lengths d ≥ 0, (B,).
            condition: Labels and sources of the rows.

        Raises:
            FlowportError: When the field was not trained on mean velocities (``sees_step``).
        """
        self.require_step("a mean velocity")
        return self.velocity(x, t, replace(condition, step=step))

    def require_step(self, purpose: str) -> None:
        """Check that the field has mean velocities over steps.

        Args:
            purpose: What needs them, the first words of the error message.

        Raises:
            FlowportError: When the field has velocities only.
        """
        if not self.sees_step:
            raise FlowportError(
                f"{purpose} needs a flow that learnt what its velocity is on the mean over a step (objective=shortcut; "
                "guidance, another path and tuning lose it): use another ODE solver, for instance solver=euler"
            )

    def score(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Score ∇ log p_t(x), (B, *D), or that of p_t(· | x0) for a bridge whose field is a function of x0.

        Args:
            x: Points, (B, *D).
            t: Times in [0, 1], (B,).
            condition: Labels, sources and step lengths of the rows.

        Raises:
            FlowportError: When the composition has no score.
        """
        return self.velocity_and_score(x, t, condition)[1]

    def velocity_and_score(self, x: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Velocity and score from one evaluation, s = −E[ε | x]/n with n the weight of the noise ε in x_t.

        Args:
            x: Points, (B, *D).
            t: Times in [0, 1], (B,), moved a margin inside.
            condition: Labels, sources and step lengths of the rows.

        Returns:
            v and ∇ log p_t, each (B, *D).

        Raises:
            FlowportError: When the composition has no score.
        """
        t = clamped(self.path.clamp(t), MARGIN, 1 - MARGIN)
        flow_state, c = self.flow_state(x, t, condition), self.path.coefficients(t)
        noise = self.capabilities.role.noise(flow_state, c, self.start(condition))
        return flow_state.velocity, -noise / self.capabilities.role.amplitude(c.over(x))[0]

    def velocity_and_end(self, x: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Velocity and expected target from one evaluation.

        Args:
            x: Points, (B, *D).
            t: Times in [0, 1], (B,), moved a margin inside.
            condition: Labels, sources and step lengths of the rows.

        Returns:
            v and E[x1 | x_t], each (B, *D).
        """
        t = clamped(self.path.clamp(t), MARGIN, 1 - MARGIN)
        flow_state, c = self.flow_state(x, t, condition), self.path.coefficients(t)
        return flow_state.velocity, endpoints(flow_state, c, self.start(condition))[1]

    def endpoints(self, x: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Tensor | None]:
        """Expected end points and bridge noise from one evaluation.

        Args:
            x: Points, (B, *D).
            t: Times in [0, 1], (B,), moved a margin inside.
            condition: Labels, sources and step lengths of the rows.

        Returns:
            E[x0 | x_t], E[x1 | x_t] and E[z | x_t], each (B, *D); the last is None on a path without noise.
        """
        t = clamped(self.path.clamp(t), MARGIN, 1 - MARGIN)
        return endpoints(self.flow_state(x, t, condition), self.path.coefficients(t), self.start(condition))
