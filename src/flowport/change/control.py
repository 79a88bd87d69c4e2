"""A network of its own beside the frozen base."""

from collections.abc import Callable

from torch import Tensor

from flowport.change.silent import output, silenced
from flowport.field.base import Field
from flowport.field.tilted import Change, Gains, scaled
from flowport.network.base import Network
from flowport.shapes import Condition, ConditionShape, EventShape


class Control(Change):
    """G = β/(n² + β²) · network(x, t, condition): on the linear path from noise Δv = (1 − t)/((1 − t)² + t²) · network.

    Raises Refusal for a network that does not end in its last layer.
    """

    needs_base = False

    def __init__(self, base: Field, event_shape: EventShape, condition: ConditionShape,
                 network: Callable[..., Network]) -> None:  # fmt: skip
        super().__init__()
        self.network = silenced(network, event_shape, condition)

    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: Gains) -> Tensor:
        return scaled(gains.unit_velocity, output(self.network, x, t, condition))

    def tilt(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: Gains) -> Tensor:
        return scaled(gains.unit, output(self.network, x, t, condition))
