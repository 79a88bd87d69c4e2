"""What the network is told beside x and t, computed after re-pairing, with dropout per sample."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.errors import Refusal
from flowport.shapes import Condition, ConditionShape, Pair, Sample


class Conditioning(ABC):
    """sees_source: the field is a function of its start x0 too, so a bridge has a score given x0."""

    sees_source: ClassVar[bool] = False

    @abstractmethod
    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        """What the network must accept. Raises Refusal where a label is wanted that the data do not have."""

    @abstractmethod
    def training(self, pair: Pair, generator: torch.Generator) -> Condition:
        """The condition of re-paired points."""

    @abstractmethod
    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        """The condition of a translation that starts at ``source``, towards the wished target ``label``."""


class Unconditional(Conditioning):
    """The network sees x and t only."""

    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        return ConditionShape()

    def training(self, pair: Pair, generator: torch.Generator) -> Condition:
        return Condition()

    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        return Condition()


class SourceItself(Conditioning):
    """The network sees the start x0 (an image as further channels, a point by concatenation)."""

    sees_source = True

    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        return ConditionShape(source=True)

    def training(self, pair: Pair, generator: torch.Generator) -> Condition:
        return Condition(source=pair.source.x)

    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        return Condition(source=source.x)


def _drop(label: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Each row loses its label with probability ``rate``: a class becomes −1, a continuous label NaN."""
    if rate == 0:
        return label
    lost = torch.rand(len(label), generator=generator, device=label.device) < rate
    if label.is_floating_point():
        return torch.where(lost[:, None], torch.nan, label)
    return torch.where(lost, -1, label)


def _label_shape(side: Distribution, which: str) -> ConditionShape:
    if side.classes == 0 and side.label_width == 0:
        raise Refusal(
            f"conditioning={which}_label needs labels, but the {which} {type(side).__name__} has none: "
            "use conditioning=none"
        )
    return ConditionShape(classes=side.classes, values=side.label_width)


class TargetLabel(Conditioning):
    """The network sees the label of the target point; ``dropout`` is the share of rows that lose it."""

    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout = dropout

    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        return _label_shape(target, "target")

    def training(self, pair: Pair, generator: torch.Generator) -> Condition:
        assert pair.target.label is not None
        return Condition(label=_drop(pair.target.label, self.dropout, generator))

    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        if label is None:
            raise Refusal(
                "this flow was trained with conditioning=target_label: say which target label to translate to"
            )
        return Condition(label=label)


class SourceLabel(Conditioning):
    """The network sees the label of the source point; ``dropout`` is the share of rows that lose it."""

    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout = dropout

    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        return _label_shape(source, "source")

    def training(self, pair: Pair, generator: torch.Generator) -> Condition:
        assert pair.source.label is not None
        return Condition(label=_drop(pair.source.label, self.dropout, generator))

    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        if source.label is None:
            raise Refusal("this flow was trained with conditioning=source_label: its input points need labels")
        return Condition(label=source.label)
