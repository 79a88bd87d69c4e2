"""Low-rank adaptation (LoRA) of the base's own network."""

from copy import deepcopy

from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.field.tilt_gains import TiltGains
from flowport.finetuning.adapter.base import Adapter
from flowport.types import Condition, ConditionShape, EventShape


class LowRankAdapter(Adapter):
    """Change Δv = v_copy − v_base, the copy having weights W + (alpha/rank) B A in linear and convolution layers.

    Only A and B, of rank ``rank``, are trained; B starts at zero. The layers are those of the library peft (extra
    ``lora``). Low-rank updates that the base already has are merged into its copy's weights first.

    Args:
        base: The frozen base, which is copied.
        event_shape: Shape D of one point; unused.
        condition: What the field is conditioned on; unused.
        rank: Rank of the updates.
        alpha: Scale of the updates; the factor is alpha/rank.

    Raises:
        FlowportError: For rank < 1 or alpha ≤ 0, without peft, and for a base without a linear or convolution layer.

    References:
        Hu et al. 2021, "LoRA: low-rank adaptation of large language models", arXiv:2106.09685.
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
        for name, module in list(copied.named_modules()):  # merge earlier low-rank updates
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
