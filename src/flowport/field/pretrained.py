"""A diffusion model of the library diffusers as a field (optional extra ``diffusers``)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from flowport.capabilities import Capabilities, SourceIsNoise
from flowport.conditioning import Conditioning, TargetLabelConditioning, Unconditional
from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.path.noise_schedule import TabulatedPath
from flowport.prediction import SourcePrediction
from flowport.tensors import over
from flowport.types import Condition

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

READINGS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda output, x, alpha, beta: output,
    "sample": lambda output, x, alpha, beta: (x - beta * output) / alpha,
    "v_prediction": lambda output, x, alpha, beta: alpha * x + beta * output,  # v = β ε − α x1 and α² + β² = 1
}
"""What a model predicts, as its scheduler calls it -> E[ε | x] from its output, x, α and β."""


@final
class PretrainedField(Field):
    """E[ε | x_t] of a UNet2DModel or DiTTransformer2DModel on the path of its scheduler's ``alphas_cumprod``.

    x_t = √ᾱ_k x1 + √(1 − ᾱ_k) ε at step k = (1 − t)(N − 1), which between whole steps is passed on as it is: the models
    embed it by sines. The source is standard Gaussian noise, so the field has a score and serves every sampler, and it
    can be a teacher or the base of a fine-tuning. A model with classes is told the target's label. Of an output with
    more channels than x (a learnt variance) the first are the mean.

    Raises FlowportError for another kind of prediction than READINGS has, or a scheduler without ``alphas_cumprod``.
    """

    def __init__(self, model: nn.Module, scheduler: "SchedulerMixin") -> None:
        kind: Any = scheduler.config.get("prediction_type", "epsilon")
        table = getattr(scheduler, "alphas_cumprod", None)
        if kind not in READINGS or table is None:
            raise FlowportError(
                f"{type(scheduler).__name__} with prediction_type={kind} is no diffusion that flowport can read: it "
                f"needs alphas_cumprod and one of {', '.join(READINGS)}"
            )
        told: Any = model.config
        self.classes = told.get("num_class_embeds") or told.get("num_embeds_ada_norm")
        conditioning: Conditioning = TargetLabelConditioning() if self.classes else Unconditional()
        path = TabulatedPath(table)
        super().__init__(path, SourcePrediction(), conditioning, Capabilities(SourceIsNoise(), True))
        self.steps, self.model, self.read = path, model, READINGS[kind]

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        weight = next(self.model.parameters())
        told = {}
        if condition.label is not None:  # a DiT keeps the class after the last for "none", which is −1 here
            told["class_labels"] = torch.where(condition.label < 0, self.classes, condition.label)
        output = self.model(x.to(weight.dtype), self.steps.timestep(t), **told).sample[:, : x.shape[1]].to(x)
        return self.read(output, x, over(self.path.alpha(t), x), over(self.path.beta(t), x))


def load(folder: Path) -> PretrainedField:
    """The field of a pipeline that ``save_pretrained`` wrote: its unet or transformer, and its scheduler, from disk.

    Weights are safetensors, and no code of the folder's runs. Raises FlowportError where a part is missing or of
    another
    kind, or where diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError:
        raise FlowportError("a model of diffusers needs the extra: pip install 'flowport[diffusers]'") from None
    models = {"unet": diffusers.UNet2DModel, "transformer": diffusers.DiTTransformer2DModel}
    part = next((name for name in models if (folder / name / "config.json").is_file()), None)
    if part is None or not (folder / "scheduler" / "scheduler_config.json").is_file():
        raise FlowportError(f"{folder} holds no diffusion pipeline: it needs scheduler/ and unet/ or transformer/")
    written = json.loads((folder / part / "config.json").read_text()).get("_class_name")
    if written != models[part].__name__:
        raise FlowportError(f"{folder}/{part} is a {written}: flowport reads {models[part].__name__} there")
    local = {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
    model = models[part].from_pretrained(folder / part, **local)
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    return PretrainedField(model.eval(), scheduler)
