"""Time and label as one vector, shared by all networks that are modulated by it."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.network.base import told_step
from flowport.types import Condition, ConditionShape


class LabelEmbedding(nn.Module, ABC):
    """A label, or its absence, as something to add to a hidden vector; the absence is learned too."""

    @abstractmethod
    def forward(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        """hidden (B, width) plus the embedding of label; ``None`` means dropped in every row."""


class NoLabelEmbedding(LabelEmbedding):
    """For networks without labels."""

    def forward(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        if label is not None:
            raise FlowportError(
                "this network was built without labels but is given some: build it with a label conditioning"
            )
        return hidden


class ClassLabelEmbedding(LabelEmbedding):
    """Label c of (B,) integers adds row c + 1 of a table; row 0 belongs to −1, 'no label'."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            return hidden + self.table.weight[0]
        return hidden + self.table(label + 1)


class ValueLabelEmbedding(LabelEmbedding):
    """Label y of (B, k) numbers adds W y + b; a row with a NaN adds a learned vector instead."""

    def __init__(self, values: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(values, width)
        self.absent = nn.Parameter(torch.randn(width))

    def forward(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            return hidden + self.absent
        # The NaN must not reach the linear layer: 0 · NaN would poison the gradient of its weight.
        dropped = label.isnan().any(1, keepdim=True)
        known = self.linear(torch.where(dropped, 0.0, label).to(self.linear.weight.dtype))
        return hidden + torch.where(dropped, self.absent.to(known.dtype), known)


def label_embedding(condition: ConditionShape, width: int) -> LabelEmbedding:
    """The embedding of the labels that ``condition`` announces."""
    if condition.classes and condition.values:
        raise FlowportError("a network takes classes or continuous labels, not both")
    if condition.classes:
        return ClassLabelEmbedding(condition.classes, width)
    return ValueLabelEmbedding(condition.values, width) if condition.values else NoLabelEmbedding()


class TimeFeatures(nn.Module):
    """cos and sin of ω t for ω = 1, 1.5, 2, 3, …, 2^(octaves−1), 1.5 · 2^(octaves−1): (B,) -> (B, 4·octaves).

    Ten octaves tell t = 0 from t = 0.001 (a flow that translates decides everything near 0). The frequencies are exact
    in every floating-point format, so a network cast to bfloat16 keeps them; angles are computed in t's own precision.
    """

    frequencies: Tensor

    def __init__(self, octaves: int = 10) -> None:
        super().__init__()
        powers = 2.0 ** torch.arange(octaves)
        self.register_buffer("frequencies", torch.cat([powers, 1.5 * powers]), persistent=False)
        self.width = 4 * octaves

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.frequencies.to(t.dtype)
        return torch.cat([angle.cos(), angle.sin()], 1)


class Embedding(nn.Module):
    """SiLU(W2 SiLU(W1 features(t) + label)): (B, width), ready for the linear maps that modulate blocks.

    Label and time meet before a nonlinearity, so that what a label does may depend on the time. Networks that see the
    length d of a step add W3 features(d) there.
    """

    def __init__(self, width: int, condition: ConditionShape) -> None:
        super().__init__()
        self.shape = condition
        self.time = TimeFeatures()
        self.first = nn.Linear(self.time.width, width)
        self.label = label_embedding(condition, width)
        self.second = nn.Linear(width, width)
        self.activation = nn.SiLU()
        self.step = nn.Linear(self.time.width, width) if condition.step else None

    def forward(self, t: Tensor, condition: Condition) -> Tensor:
        hidden, step = self.first(self.time(t).to(self.first.weight.dtype)), told_step(self.shape, t, condition)
        if step is not None and self.step is not None:
            hidden = hidden + self.step(self.time(step).to(self.step.weight.dtype))
        return self.activation(self.second(self.activation(self.label(hidden, condition.label))))
