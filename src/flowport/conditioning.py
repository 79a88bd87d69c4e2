"""What the network is told beside x and t, computed after re-pairing, with dropout per sample."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.types import Condition, ConditionShape, Pair, Sample


class Conditioning(ABC):
    """sees_source: the field is a function of its start x0 too, so a bridge has a score given x0.
    dropout: the share of training rows that are not told, so that the field is the untold one as well."""

    sees_source: ClassVar[bool] = False
    dropout: float = 0.0

    @abstractmethod
    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        """What the network must accept. Raises FlowportError where a label is wanted that the data do not have."""

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


class DroppableConditioning(Conditioning, ABC):
    """Each row of a training batch loses what it is told with probability ``dropout``, in [0, 1), by itself."""

    def __init__(self, dropout: float = 0.0) -> None:
        if not 0 <= dropout < 1:
            raise FlowportError(f"conditioning.dropout={dropout} must be at least 0 and below 1: a share of the rows")
        self.dropout = dropout

    @abstractmethod
    def whole(self, pair: Pair) -> Condition:
        """The condition of re-paired points before any row is dropped."""

    def training(self, pair: Pair, generator: torch.Generator) -> Condition:
        told = self.whole(pair)
        if self.dropout == 0:
            return told
        return told.dropped(torch.rand(len(pair), generator=generator, device=pair.source.x.device) < self.dropout)


class SourceConditioning(DroppableConditioning):
    """The network sees the start x0 (an image as further channels, a point by concatenation)."""

    sees_source = True

    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        return ConditionShape(source=True, droppable=self.dropout > 0)

    def whole(self, pair: Pair) -> Condition:
        return Condition(source=pair.source.x)

    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        return Condition(source=source.x)


def _label_shape(side: Distribution, which: str) -> ConditionShape:
    if side.classes == 0 and side.label_width == 0:
        raise FlowportError(
            f"conditioning={which}_label needs labels, but the {which} {type(side).__name__} has none: "
            "use conditioning=unconditional"
        )
    return ConditionShape(classes=side.classes, values=side.label_width)


def _label_of(side: Sample, which: str) -> Tensor:
    if side.label is None:  # stored pairs need not have the labels of the data they came from
        raise FlowportError(
            f"conditioning={which}_label needs labels, but these {which} points came without: store the pairs with "
            "them, or use conditioning=unconditional"
        )
    return side.label


class TargetLabelConditioning(DroppableConditioning):
    """The network sees the label of the target point."""

    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        return _label_shape(target, "target")

    def whole(self, pair: Pair) -> Condition:
        return Condition(label=_label_of(pair.target, "target"))

    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        if label is None:
            raise FlowportError(
                "this flow was trained with conditioning=target_label: say which target label to translate to"
            )
        return Condition(label=label)


class SourceLabelConditioning(DroppableConditioning):
    """The network sees the label of the source point."""

    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        return _label_shape(source, "source")

    def whole(self, pair: Pair) -> Condition:
        return Condition(label=_label_of(pair.source, "source"))

    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        if source.label is None:
            raise FlowportError("this flow was trained with conditioning=source_label: its input points need labels")
        return Condition(label=source.label)
