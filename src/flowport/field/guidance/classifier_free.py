"""Classifier-free guidance: extrapolation from the unconditional to the conditional output of one field."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.tensors import over
from flowport.types import Condition


@final
class ClassifierFreeGuidance(Field):
    """Classifier-free guidance, u + w(t) (c − u), u and c the outputs of the base without and with its condition.

    w = 0 is the unconditional field, w = 1 the conditional one, w > 1 guidance. Inside ``interval`` = [low, high]

        w(t) = 1 + (scale − 1) ((t − low)/(high − low))^ramp,

    and w = 1 outside. Velocity, score and end points are affine in the output of every prediction, so all are guided
    by the same w, for every solver and volatility. One call of the base evaluates both outputs, 2B rows; where every w
    is 1 it evaluates c alone, so scale 1 equals the base exactly. For w > 1 this is a heuristic: the samples do not
    follow the law ∝ p(x) p(condition | x)^w.

    Args:
        base: A field trained with ``conditioning.dropout`` > 0.
        scale: Guidance scale ≥ 0; Ho and Salimans call scale − 1 the guidance strength.
        interval: Times [low, high] of guidance, 0 ≤ low < high ≤ 1.
        ramp: Exponent ≥ 0 of the growth of w from 1 inside the interval; 0 for a constant w = scale, 1 for linear.

    Raises:
        FlowportError: For a base that was not trained without its condition, a negative scale or ramp, and an invalid
            interval.

    References:
        Ho and Salimans 2022, "Classifier-free diffusion guidance", arXiv:2207.12598.
        Kynkäänniemi et al. 2024, "Applying guidance in a limited interval improves sample and distribution quality in
        diffusion models", arXiv:2404.07724.
        Wang et al. 2024, "Analysis of classifier-free guidance weight schedulers", arXiv:2404.13040.
        Bradley and Nakkiran 2024, "Classifier-free guidance is a predictor-corrector", arXiv:2408.09000.
    """

    def __init__(
        self, base: Field, scale: float = 1.0, interval: Sequence[float] = (0.0, 1.0), ramp: float = 0.0
    ) -> None:
        if base.conditioning.dropout == 0:
            raise FlowportError(
                "guidance=classifier_free needs a flow that was also trained without its condition, but this one has "
                "no "
                "conditioning.dropout: train with conditioning=target_label (or source_label, source) and "
                "conditioning.dropout=0.1"
            )
        if scale < 0 or ramp < 0:
            raise FlowportError(f"guidance.scale={scale} and guidance.ramp={ramp} must be at least 0")
        if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
            raise FlowportError(f"guidance.interval={list(interval)} must be two times, 0 ≤ low < high ≤ 1")
        super().__init__(base.path, base.prediction, base.conditioning, base.capabilities)
        self.base, self.scale, self.ramp = base, scale, ramp
        self.low, self.high = interval
        self.everywhere = scale != 1 and ramp == 0 and self.low <= 0 and self.high >= 1  # then nothing is read
        self.training = base.training  # a sampler restores the mode that a module had

    def weight(self, t: Tensor) -> Tensor:
        """Guidance weight w(t), (B,).

        Args:
            t: Times, (B,).
        """
        share = ((t - self.low) / (self.high - self.low)).clamp(0, 1) ** self.ramp
        return torch.where((self.low <= t) & (t <= self.high), 1 + (self.scale - 1) * share, 1)

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        w = self.weight(t)
        if not self.everywhere and bool((w == 1).all()):
            return self.base.output(x, t, condition)
        rows = torch.arange(2 * len(x), device=x.device)
        twice = rows % len(x)
        both = condition[twice].dropped(rows < len(x))
        dropped, conditional = self.base.output(x[twice], t[twice], both).chunk(2)
        return torch.lerp(dropped, conditional, over(w.to(conditional.dtype), conditional))
