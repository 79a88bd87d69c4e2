"""Embeddings of time, label and step length as one vector, by which networks are modulated.

References:
    Ho and Salimans 2022, "Classifier-free diffusion guidance", arXiv:2207.12598 (a learned embedding for no label).
    Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762 (sines and cosines of a position).
    Tancik et al. 2020, "Fourier features let networks learn high frequency functions in low dimensional domains",
    arXiv:2006.10739.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.network.base import checked_step
from flowport.types import Condition, ConditionShape


class LabelEmbedding(nn.Module, ABC):
    """Embedding of a label, or of a dropped label, that is added to a hidden vector.

    A member provides ``forward``. A dropped label has an embedding of its own, which is learned.

    To add a member: subclass this class in this module and let ``label_embedding`` return it.
    """

    @abstractmethod
    def forward(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        """Hidden vectors plus the embedding of their labels, (B, width).

        Args:
            hidden: Hidden vectors, (B, width).
            label: Classes (B,), −1 where dropped, or values (B, k), a row of NaN where dropped; None drops all rows.
        """


class NoLabelEmbedding(LabelEmbedding):
    """The embedding of networks without labels, which adds nothing."""

    def forward(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        """The hidden vectors unchanged.

        Args:
            hidden: Hidden vectors, (B, width).
            label: Must be None.

        Raises:
            FlowportError: When a label is given.
        """
        if label is not None:
            raise FlowportError(
                "this network was built without labels but is given some: build it with a label conditioning"
            )
        return hidden


class ClassLabelEmbedding(LabelEmbedding):
    """Embedding of classes by a table: class c adds row c + 1, a dropped label (−1) adds row 0.

    Args:
        classes: Number of classes.
        width: Width of the hidden vector.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            return hidden + self.table.weight[0]
        return hidden + self.table(label + 1)


class ValueLabelEmbedding(LabelEmbedding):
    """Affine embedding of continuous labels: y adds W y + b, a dropped label (a row with NaN) a learned vector.

    Args:
        values: Number k of values of a label.
        width: Width of the hidden vector.
    """

    def __init__(self, values: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(values, width)
        self.absent = nn.Parameter(torch.randn(width))

    def forward(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        if label is None:
            return hidden + self.absent
        # NaN must not reach the linear layer: 0 · NaN would make the gradient of its weight NaN.
        dropped = label.isnan().any(1, keepdim=True)
        known = self.linear(torch.where(dropped, 0.0, label).to(self.linear.weight.dtype))
        return hidden + torch.where(dropped, self.absent.to(known.dtype), known)


def label_embedding(condition: ConditionShape, width: int) -> LabelEmbedding:
    """The embedding of the labels that a network is built to accept.

    Args:
        condition: What the network must accept.
        width: Width of the hidden vector.

    Raises:
        FlowportError: When both classes and continuous labels are requested.
    """
    if condition.classes and condition.values:
        raise FlowportError("a network takes classes or continuous labels, not both")
    if condition.classes:
        return ClassLabelEmbedding(condition.classes, width)
    return ValueLabelEmbedding(condition.values, width) if condition.values else NoLabelEmbedding()


class TimeFeatures(nn.Module):
    """Fourier features of time: cos and sin of ω t for ω = 2^k and 1.5 · 2^k, k = 0, …, octaves − 1.

    Ten octaves separate t = 0 from t = 0.001, which matters where the velocity changes fast near t = 0. The frequencies
    are exact in every floating-point format, so a network cast to bfloat16 has the same; angles are computed in the
    precision of t.

    Args:
        octaves: Number of octaves; there are 4·octaves features.
    """

    frequencies: Tensor

    def __init__(self, octaves: int = 10) -> None:
        super().__init__()
        powers = 2.0 ** torch.arange(octaves)
        self.register_buffer("frequencies", torch.cat([powers, 1.5 * powers]), persistent=False)
        self.width = 4 * octaves

    def forward(self, t: Tensor) -> Tensor:
        """Features of the times, (B, 4·octaves).

        Args:
            t: Times, (B,).
        """
        angle = t[:, None] * self.frequencies.to(t.dtype)
        return torch.cat([angle.cos(), angle.sin()], 1)


class Embedding(nn.Module):
    """Joint embedding of time and condition, SiLU(W₂ SiLU(W₁ φ(t) + W₃ φ(d) + label)), φ the time features.

    W₁, W₂ and W₃ are affine. The term of the step length d is present only in networks built with it. The label is
    added before a nonlinearity, so its effect may depend on the time.

    Args:
        width: Width of the embedding.
        condition: What the network must accept beside x and t.
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
        """Embedding of times and conditions, (B, width).

        Args:
            t: Times, (B,).
            condition: Labels and step lengths of the rows; the source is not read.
        """
        hidden, step = self.first(self.time(t).to(self.first.weight.dtype)), checked_step(self.shape, t, condition)
        if step is not None and self.step is not None:
            hidden = hidden + self.step(self.time(step).to(self.step.weight.dtype))
        return self.activation(self.second(self.activation(self.label(hidden, condition.label))))
