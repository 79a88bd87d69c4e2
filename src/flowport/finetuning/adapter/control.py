"""Control network: the tilt as a separate network next to the frozen base."""

from collections.abc import Callable

from torch import Tensor

from flowport.field.base import Field
from flowport.field.tilt_gains import TiltGains
from flowport.finetuning.adapter.base import Adapter
from flowport.finetuning.adapter.zero_init import output, zero_initialised
from flowport.network.base import Network
from flowport.tensors import scaled
from flowport.types import Condition, ConditionShape, EventShape


class ControlAdapter(Adapter):
    """Control G = β/(n² + β²) · network(x, t, condition), the network starting at zero.

    The factor is ∇ log h per unit of ∇r for Cov(x1) = I, so that the network's output is of order 1 at all times. From
    noise on the linear path it means Δv = (1 − t)/((1 − t)² + t²) · network(x, t, condition).

    Args:
        base: The frozen base; unused.
        event_shape: Shape D of one point.
        condition: What the network must accept beside x and t.
        network: Partial of a network.

    Raises:
        FlowportError: For a network whose output a zero last layer does not make zero.

    References:
        Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative
            models with memoryless stochastic optimal control", arXiv:2409.08861.
    """

    needs_base = False

    def __init__(
        self, base: Field, event_shape: EventShape, condition: ConditionShape, network: Callable[..., Network]
    ) -> None:
        super().__init__()
        self.network = zero_initialised(network, event_shape, condition)

    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: TiltGains) -> Tensor:
        return scaled(gains.unit_velocity, output(self.network, x, t, condition))

    def tilt(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: TiltGains) -> Tensor:
        return scaled(gains.unit, output(self.network, x, t, condition))
