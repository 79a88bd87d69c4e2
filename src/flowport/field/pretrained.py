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

NOISE_FROM_OUTPUT: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda output, x, alpha, beta: output,
    "sample": lambda output, x, alpha, beta: (x - beta * output) / alpha,
    "v_prediction": lambda output, x, alpha, beta: alpha * x + beta * output,  # v = β ε − α x1 and α² + β² = 1
}
"""E[ε | x] from a model's output, x, α and β, by the scheduler's name of the prediction."""


@final
class PretrainedField(Field):
    """The field E[ε | x_t] of a pretrained diffusion model on the path of its noise schedule.

    x_t = √ᾱ_k x1 + √(1 − ᾱ_k) ε at step k = (1 − t)(N − 1), with ᾱ the scheduler's ``alphas_cumprod`` of N steps. The
    models embed k by sines, so k between whole steps is passed as a real number. The source is standard Gaussian noise:
    the field has a score, can be sampled by every sampler, and can be the teacher of a reflow or the base of a
    fine-tuning. A model with classes is conditioned on the target's label. If the output has more channels than x (a
    learned variance), the first ones are the mean.

    Args:
        model: A ``UNet2DModel`` or ``DiTTransformer2DModel`` of diffusers.
        scheduler: The scheduler of its training, with ``alphas_cumprod`` and a ``prediction_type`` in
            ``NOISE_FROM_OUTPUT``.

    Raises:
        FlowportError: For another kind of prediction, and for a scheduler without ``alphas_cumprod``.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239.
        Salimans and Ho 2022, "Progressive distillation for fast sampling of diffusion models", arXiv:2202.00512 (the
        v-prediction).
        Peebles and Xie 2022, "Scalable diffusion models with transformers", arXiv:2212.09748.
    """

    def __init__(self, model: nn.Module, scheduler: "SchedulerMixin") -> None:
        kind: Any = scheduler.config.get("prediction_type", "epsilon")
        table = getattr(scheduler, "alphas_cumprod", None)
        if kind not in NOISE_FROM_OUTPUT or table is None:
            raise FlowportError(
                f"{type(scheduler).__name__} with prediction_type={kind} is no diffusion that flowport can read: it "
                f"needs alphas_cumprod and one of {', '.join(NOISE_FROM_OUTPUT)}"
            )
        options: Any = model.config
        self.classes = options.get("num_class_embeds") or options.get("num_embeds_ada_norm")
        conditioning: Conditioning = TargetLabelConditioning() if self.classes else Unconditional()
        path = TabulatedPath(table)
        super().__init__(path, SourcePrediction(), conditioning, Capabilities(SourceIsNoise(), True))
        self.steps, self.model, self.read = path, model, NOISE_FROM_OUTPUT[kind]

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        weight = next(self.model.parameters())
        labels = {}
        if condition.label is not None:  # a DiT's class for "no label" is the one after the last; here it is −1
            labels["class_labels"] = torch.where(condition.label < 0, self.classes, condition.label)
        output = self.model(x.to(weight.dtype), self.steps.timestep(t), **labels).sample[:, : x.shape[1]].to(x)
        return self.read(output, x, over(self.path.alpha(t), x), over(self.path.beta(t), x))


def load(folder: Path) -> PretrainedField:
    """The field of a diffusion pipeline on disk, as written by ``save_pretrained`` of diffusers.

    It reads the unet or transformer and the scheduler. Weights must be safetensors; no code from the folder is run.

    Args:
        folder: Folder of the pipeline, with scheduler/ and unet/ or transformer/.

    Raises:
        FlowportError: When a part is missing or of another kind, and where diffusers is not installed.
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
