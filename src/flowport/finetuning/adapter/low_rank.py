"""Low-rank additions to the base's own network."""

from copy import deepcopy

from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.field.tilt_gains import TiltGains
from flowport.finetuning.adapter.base import Adapter
from flowport.types import Condition, ConditionShape, EventShape


class LowRankAdapter(Adapter):
    """Δv = v of a copy of the base whose linear and convolution layers are W + (alpha/rank) B A − v of the base.

    A, B: of rank ``rank``, B starting at zero; only they are trained (LoRA, Hu et al. 2021, by the library peft: extra
    ``lora``). Raises FlowportError where peft is not installed or the base has no such layer.
    """

    def __init__(
        self, base: Field, event_shape: EventShape, condition: ConditionShape, rank: int = 8, alpha: float = 8.0
    ) -> None:
        super().__init__()
        if rank < 1 or alpha <= 0:
            raise FlowportError(f"adapter=low_rank needs rank ≥ 1 and alpha > 0, not rank={rank} and alpha={alpha}")
        try:
            from peft import LoraConfig, inject_adapter_in_model
            from peft.tuners.lora import LoraLayer
        except ImportError:
            raise FlowportError(
                "adapter=low_rank needs the library peft: install flowport[lora], or use adapter=full"
            ) from None
        copied = deepcopy(base)
        for name, module in list(copied.named_modules()):  # what a base tuned so before has learnt joins its weights
            if isinstance(module, LoraLayer):
                module.merge()
                copied.set_submodule(name, module.get_base_layer())
        layers = [name for name, m in copied.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
        if not layers:
            raise FlowportError(
                "adapter=low_rank found no linear or convolution layer in the base: use adapter=control"
            )
        self.copy: Field = inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers), copied)
        for name, parameter in self.copy.named_parameters():
            parameter.requires_grad_("lora_" in name)

    def velocity(self, x: Tensor, t: Tensor, condition: Condition, base: Tensor, gains: TiltGains) -> Tensor:
        return self.copy.velocity(x, t, condition) - base
