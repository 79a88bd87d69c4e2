"""Classifier-free guidance: a field of a field, pushed from what it does untold towards what it is told."""

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
    """u + w (c − u): u the output of ``base`` untold, c told; w = 0 is unconditional, w = 1 the base, w > 1 guidance.

    w(t) = 1 + (scale − 1) ((t − low)/(high − low))^ramp inside ``interval`` = [low, high], and 1 outside of it. ramp: 0
    for one scale throughout, 1 for one that grows linearly from 1. Ho and Salimans (2022), whose w is ours less 1;
    interval: Kynkäänniemi et al. (2024); growing scales: Wang et al. (2024).

    Every prediction's way to velocity, score and end points is affine in its output, so all of them are guided by the
    same w, and any solver and volatility serves. One call of the base evaluates both halves, 2B rows, or where every w
    is 1 the told half alone, so that scale 1 is the base to the bit. Above 1 this is a heuristic: the results do not
    follow p(x) p(c | x)^w.
    Raises FlowportError for a base that was never trained untold.
    """

    def __init__(
        self, base: Field, scale: float = 1.0, interval: Sequence[float] = (0.0, 1.0), ramp: float = 0.0
    ) -> None:
        if base.conditioning.dropout == 0:
            raise FlowportError(
                "guidance=classifier_free needs a flow that was also trained untold, but this one has no "
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
        self.training = base.training  # a sampler puts modules back as it found them

    def weight(self, t: Tensor) -> Tensor:
        """w(t), (B,)."""
        share = ((t - self.low) / (self.high - self.low)).clamp(0, 1) ** self.ramp
        return torch.where((self.low <= t) & (t <= self.high), 1 + (self.scale - 1) * share, 1)

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        w = self.weight(t)
        if bool((w == 1).all()):
            return self.base.output(x, t, condition)
        rows = torch.arange(2 * len(x), device=x.device)
        twice = rows % len(x)
        both = condition[twice].dropped(rows < len(x))
        dropped, told = self.base.output(x[twice], t[twice], both).chunk(2)
        return torch.lerp(dropped, told, over(w.to(told.dtype), told))
