"""A network of its own beside the frozen base."""

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
    """G = β/(n² + β²) · network(x, t, condition): on the linear path from noise Δv = (1 − t)/((1 − t)² + t²) · network.

    Raises FlowportError for a network that does not end in its last layer.
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
