"""A network of its own beside the frozen base."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowport.errors import Refusal
from flowport.field.base import Field
from flowport.field.tilted import Change, Gains, scaled
from flowport.network.base import Network
from flowport.shapes import Condition, ConditionShape, EventShape


class Control(Change):
    """G = β/(n² + β²) · network(x, t, condition): on the linear path from noise Δv = (1 − t)/((1 − t)² + t²) · network.

    The network's last layer starts at zero, so that fine-tuning starts from the base itself. Raises Refusal for a
    network that this does not silence.
    """

    needs_base = False

    def __init__(self, base: Field, event_shape: EventShape, condition: ConditionShape,
                 network: Callable[..., Network]) -> None:  # fmt: skip
        super().__init__()
        self.network = network(event_shape=event_shape, condition=condition, heads=1)
        owners = [m for m in self.network.modules() if next(m.parameters(recurse=False), None) is not None]
        for parameter in owners[-1].parameters(recurse=False):
            nn.init.zeros_(parameter)
        with torch.no_grad():
            _refuse_unless_zero(self.network, event_shape, condition)

    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: Gains) -> Tensor:
        return scaled(gains.unit_velocity, self._output(x, t, condition))

    def tilt(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: Gains) -> Tensor:
        return scaled(gains.unit, self._output(x, t, condition))

    def _output(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        kind = next(self.network.parameters()).dtype
        start = None if condition.source is None else condition.source.to(kind)
        return self.network(x.to(kind), t, Condition(condition.label, start)).to(x.dtype)


def _refuse_unless_zero(network: Network, event_shape: EventShape, condition: ConditionShape) -> None:
    x, t = torch.ones(2, *event_shape), torch.full((2,), 0.5)
    told = Condition(source=x if condition.source else None)
    if bool(network(x, t, told).any()):
        raise Refusal(f"change.network={type(network).__name__} does not end in its last layer: use change=full")
