"""Full fine-tuning: all weights of the base's own network."""

from copy import deepcopy

from torch import Tensor

from flowport.field.base import Field
from flowport.field.tilt_gains import TiltGains
from flowport.finetuning.adapter.base import Adapter
from flowport.types import Condition, ConditionShape, EventShape


class FullAdapter(Adapter):
    """Change Δv = v_copy − v_base, with a trainable copy of the base that starts at its weights.

    Args:
        base: The frozen base, which is copied.
        event_shape: Shape D of one point; unused.
        condition: What the field is conditioned on; unused.

    References:
        Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative
            models with memoryless stochastic optimal control", arXiv:2409.08861.
    """

    def __init__(self, base: Field, event_shape: EventShape, condition: ConditionShape) -> None:
        super().__init__()
        self.copy = deepcopy(base).requires_grad_(True)

    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: TiltGains) -> Tensor:
        return self.copy.velocity(x, t, condition) - base
