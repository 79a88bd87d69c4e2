"""A field: a function of (x, t, condition) whose output has a meaning on a path."""

from abc import ABC, abstractmethod
from dataclasses import replace

from torch import Tensor, nn

from flowport.capabilities import Capabilities
from flowport.conditioning import Conditioning
from flowport.errors import FlowportError
from flowport.path.base import Path
from flowport.prediction.base import MARGIN, FlowState, Prediction, endpoints
from flowport.tensors import clamped
from flowport.types import Condition


class Field(nn.Module, ABC):
    """Members write ``forward``, the output in the terms of ``prediction``; everything else follows by the algebra.

    Times outside the path's interval are moved to its edge, so every end of [0, 1] gives finite numbers.
    sees_step: whether it also knows the mean velocity over a step.
    """

    sees_step: bool = False

    def __init__(
        self, path: Path, prediction: Prediction, conditioning: Conditioning, capabilities: Capabilities
    ) -> None:
        super().__init__()
        self.path, self.prediction, self.conditioning, self.capabilities = path, prediction, conditioning, capabilities

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x (B, *D), t (B,) -> output (B, heads·C, …) in the terms of ``prediction``."""

    def output(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """``forward`` for points of any precision; what training and evaluation call."""
        return self(x, t, condition)

    def start(self, condition: Condition) -> Tensor | None:
        """x0 where the algebra knows it: a bridge whose field sees its start."""
        return condition.source if self.path.bridge and self.conditioning.sees_source else None

    def flow_state(self, x: Tensor, t: Tensor, condition: Condition) -> FlowState:
        """(x, velocity, noise) at (x, t); t must lie in the path's interval."""
        output = self.output(x, t, condition)
        return self.prediction.flow_state(output, x, self.path.coefficients(t), self.start(condition))

    def velocity(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """v(x, t) = E[ẋ_t | x_t = x], (B, *D)."""
        return self.flow_state(x, self.prediction.clamp(self.path, t), condition).velocity

    def average_velocity(self, x: Tensor, t: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """(X_{t,t+d}(x) − x)/d, (B, *D), X the flow of the ODE and d = ``step`` (B,) ≥ 0; the velocity itself at d = 0.

        Raises FlowportError for a field that never learnt it."""
        self.require_step("a mean velocity")
        return self.velocity(x, t, replace(condition, step=step))

    def require_step(self, who: str) -> None:
        """Raise FlowportError, naming ``who`` asks, where the field knows velocities only."""
        if not self.sees_step:
            raise FlowportError(
                f"{who} needs a flow that learnt what its velocity is on the mean over a step (objective=shortcut; "
                "guidance, another path and tuning lose it): use another ODE solver, for instance solver=euler"
            )

    def score(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """∇ log p_t(x), (B, *D), or that of p_t(· | x0) for a bridge that sees x0. Raises FlowportError without a
        score."""
        return self.velocity_and_score(x, t, condition)[1]

    def velocity_and_score(self, x: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """v and ∇ log p_t from one evaluation of the network."""
        t = clamped(self.path.clamp(t), MARGIN, 1 - MARGIN)
        flow_state, c = self.flow_state(x, t, condition), self.path.coefficients(t)
        noise = self.capabilities.role.noise(flow_state, c, self.start(condition))
        return flow_state.velocity, -noise / self.capabilities.role.amplitude(c.over(x))[0]

    def velocity_and_end(self, x: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """v and E[x1 | x_t] from one evaluation of the network."""
        t = clamped(self.path.clamp(t), MARGIN, 1 - MARGIN)
        flow_state, c = self.flow_state(x, t, condition), self.path.coefficients(t)
        return flow_state.velocity, endpoints(flow_state, c, self.start(condition))[1]

    def endpoints(self, x: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Tensor | None]:
        """E[x0 | x], E[x1 | x] and E[z | x] (None without bridge noise)."""
        t = clamped(self.path.clamp(t), MARGIN, 1 - MARGIN)
        return endpoints(self.flow_state(x, t, condition), self.path.coefficients(t), self.start(condition))
