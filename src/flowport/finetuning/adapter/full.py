"""The base's own network, every weight of it."""

from copy import deepcopy

from torch import Tensor

from flowport.field.base import Field
from flowport.field.tilt_gains import TiltGains
from flowport.finetuning.adapter.base import Adapter
from flowport.types import Condition, ConditionShape, EventShape


class FullAdapter(Adapter):
    """Δv = v of a copy of the base − v of the base."""

    def __init__(self, base: Field, event_shape: EventShape, condition: ConditionShape) -> None:
        super().__init__()
        self.copy = deepcopy(base).requires_grad_(True)

    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: TiltGains) -> Tensor:
        return self.copy.velocity(x, t, condition) - base
