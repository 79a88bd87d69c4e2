"""Reward by the agreement of an image with a sentence, from a CLIP model on disk (the extra ``clip``)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.modality import FloatImage
from flowport.reward.base import in_its_precision
from flowport.reward.image import ImageReward
from flowport.types import Condition

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of OpenAI's training pixels by channel, the default of a folder without its own."""


@final
class CLIPScore(ImageReward):
    """CLIP score r = s cos(φ(image), ψ(prompt)), the logit of an image and a sentence: one for all, or one per class.

    φ and ψ are the projected embeddings and s the logit scale of a CLIP model. Preference models of the same
    architecture (PickScore) can be used, too. Images of 1 or 3 channels in [−1, 1] are clamped, resized to the model's
    square by differentiable bicubic interpolation, and normalised as ``preprocessor_config.json`` says. Nothing is
    downloaded, and no code from the folder is run.

    Args:
        path: Folder as ``save_pretrained`` of transformers writes it, with a CLIPModel (weights as safetensors) and its
            tokenizer.
        prompt: The sentence of all images.
        prompts: In its place a sentence for every class: an image is scored by that of the class its flow was told.

    Raises:
        FlowportError: When transformers is not installed, a part of the folder is missing, or there is not one of
            prompt and prompts.

    References:
        Radford et al. 2021, "Learning transferable visual models from natural language supervision", arXiv:2103.00020.
        Kirstain et al. 2023, "Pick-a-Pic: an open dataset of user preferences for text-to-image generation",
            arXiv:2305.01569.
    """

    text: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, path: str, prompt: str | None = None, prompts: Sequence[str] | None = None) -> None:
        super().__init__()
        sentences = [prompt] if prompt is not None else list(prompts or [])
        if (prompt is not None) == (prompts is not None) or not sentences:
            raise FlowportError(
                "reward=clip_score needs one of reward.prompt=<a sentence> and reward.prompts=[<one for each class>]"
            )
        self.per_class = prompts is not None
        try:
            from transformers import AutoTokenizer, CLIPModel
        except ImportError:
            raise FlowportError("reward=clip_score needs transformers: pip install 'flowport[clip]'") from None
        if not Path(path).is_dir():
            raise FlowportError(
                f"reward.path={path} is not a folder: give one that save_pretrained of a CLIPModel wrote"
            )
        try:
            model = CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True).float().eval()
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            message = str(error).strip().splitlines()[0]
            raise FlowportError(
                f"reward.path={path} holds no CLIPModel with safetensors and tokenizer: {message}"
            ) from None
        self.vision, self.projection = model.vision_model, model.visual_projection
        self.size = int(model.config.vision_config.image_size)
        limit = model.config.text_config.max_position_embeddings
        tokens = tokenizer(sentences, return_tensors="pt", padding=True, truncation=True, max_length=limit)
        with torch.inference_mode(False), torch.no_grad():
            pooled = model.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
            text = model.logit_scale.exp() * normalize(model.text_projection(pooled), dim=1)
        self.register_buffer("text", text, persistent=False)
        mean, spread = constants(Path(path))
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(spread)[:, None, None], persistent=False)

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that the target has images of 1 or 3 channels in [−1, 1].

        Args:
            source: The source.
            target: The target.

        Raises:
            FlowportError: When the target has other points.
        """
        super().check(source, target)
        modality, channels = target.modality, target.event_shape[0]
        span = (modality.low, modality.high) if isinstance(modality, FloatImage) else (-1, 1)
        if channels not in (1, 3) or span != (-1, 1):
            raise FlowportError(
                f"reward={self.called} is for images of 1 or 3 channels from −1 to 1, but the target's have {channels} "
                f"and go from {span[0]} to {span[1]}"
            )
        classes = {side.classes for side in (source, target) if side.classes}
        if self.per_class and len(self.text) not in classes:
            raise FlowportError(
                f"reward.prompts has {len(self.text)} sentences, one for each class that the flow is told, but the "
                f"data have {' and '.join(map(str, sorted(classes))) or 'no'} classes"
            )

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        pixels = ((in_its_precision(self.vision, x1) + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
        size = (self.size, self.size)
        fitted = interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
        shown = (fitted - self.mean) / self.spread
        found = normalize(self.projection(self.vision(pixel_values=shown).pooler_output), dim=1)
        return (found * self._sentences(condition)).sum(1)

    def _sentences(self, condition: Condition) -> Tensor:
        """The scaled embedding ψ of the sentence of every image, (B, d), or of all, (1, d)."""
        if not self.per_class:
            return self.text
        label = condition.label
        if label is None or label.ndim != 1 or label.is_floating_point():
            raise FlowportError(
                "reward.prompts has a sentence for each class that the flow is told, but it is told none: use "
                "conditioning=source_label or target_label, or reward.prompt=<a sentence>"
            )
        unknown = label[(label < 0) | (label >= len(self.text))]
        if len(unknown):
            raise FlowportError(f"reward.prompts has no sentence for class {int(unknown[0])}, only {len(self.text)}")
        return self.text[label]


def constants(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of pixels by channel, from the folder's image processor or else OpenAI's.

    Args:
        folder: Folder of the model.
    """
    file = folder / "preprocessor_config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    return list(config.get("image_mean", MEAN)), list(config.get("image_std", SPREAD))
