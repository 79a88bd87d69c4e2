"""Conditionings: the inputs of the network besides x and t, computed after the coupling has re-paired the points.

References:
    Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598 (dropout of the condition).
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.errors import Checked, FlowportError
from flowport.types import Condition, ConditionShape, Pair, Sample


class Conditioning(Checked, ABC):
    """The choice of the condition c of the field v(x, t, c), from the pair in training and from the start in sampling.

    A member provides ``shape``, ``training`` and ``sampling``. ``training`` must be a function of the re-paired points
    and its generator. A condition in sampling uses only what is known then: the start, its label and a requested target
    label.

    To add a member: subclass this class or ``DroppableConditioning`` in this module, add
    ``configs/conditioning/<name>.yaml`` with ``_target_`` and list it in ``CONDITIONINGS`` of tests/zoo.py.

    Attributes:
        sees_source: Whether the field is also a function of its start x0, so that a bridge has a score given x0.
        dropout: Probability with which the condition of a training row is dropped, so that the same network is also the
            unconditional field.
    """

    sees_source: ClassVar[bool] = False
    dropout: float = 0.0

    @abstractmethod
    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        """The kinds of condition that the network must accept.

        Args:
            source: Source distribution.
            target: Target distribution.

        Raises:
            FlowportError: When the condition is a label that the data do not have.
        """

    @abstractmethod
    def training(self, pair: Pair, generator: torch.Generator) -> Condition:
        """The condition of a training batch, with rows dropped at random.

        Args:
            pair: Re-paired points, B rows.
            generator: Randomness of the dropout, on the device of the pair.

        Raises:
            FlowportError: When the condition is a label that the points do not have.
        """

    @abstractmethod
    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        """The condition under which the flow is sampled from given starts.

        Args:
            source: Starts x0, B rows, with their labels.
            label: Requested target labels, (B,) classes or (B, k) values; None for no request.

        Raises:
            FlowportError: When the condition is a label that is not given.
        """


class Unconditional(Conditioning):
    """The empty condition: the network is a function of x and t only."""

    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        return ConditionShape()

    def training(self, pair: Pair, generator: torch.Generator) -> Condition:
        return Condition()

    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        return Condition()


class DroppableConditioning(Conditioning, ABC):
    """A condition that is dropped in each training row independently with a fixed probability.

    A member provides ``shape``, ``whole`` and ``sampling``. Dropped rows train the unconditional field that
    classifier-free guidance needs.

    To add a member: see ``Conditioning``.

    Args:
        dropout: Probability of dropping the condition of a row, in [0, 1).

    Raises:
        FlowportError: When the probability is outside [0, 1).
    """

    def __init__(self, dropout: float = 0.0) -> None:
        if not 0 <= dropout < 1:
            raise FlowportError(f"conditioning.dropout={dropout} must be at least 0 and below 1: a share of the rows")
        self.dropout = dropout

    @abstractmethod
    def whole(self, pair: Pair) -> Condition:
        """The condition of a training batch before any row is dropped.

        Args:
            pair: Re-paired points, B rows.

        Raises:
            FlowportError: When the condition is a label that the points do not have.
        """

    def training(self, pair: Pair, generator: torch.Generator) -> Condition:
        condition = self.whole(pair)
        if self.dropout == 0:
            return condition
        return condition.dropped(torch.rand(len(pair), generator=generator, device=pair.source.x.device) < self.dropout)


class SourceConditioning(DroppableConditioning):
    """The condition c = x0, the start of the path, which the network concatenates to x along dimension 1.

    Args:
        dropout: Probability of dropping the start of a row, in [0, 1).
    """

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
    """The condition c = y1, the label of the target point.

    Args:
        dropout: Probability of dropping the label of a row, in [0, 1).
    """

    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        return _label_shape(target, "target")

    def whole(self, pair: Pair) -> Condition:
        return Condition(label=_label_of(pair.target, "target"))

    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        """The requested target labels.

        Args:
            source: Starts x0, B rows; not used.
            label: Requested target labels, (B,) classes or (B, k) values.

        Raises:
            FlowportError: When no target label is requested.
        """
        if label is None:
            raise FlowportError(
                "this flow was trained with conditioning=target_label: say which target label to translate to: label=3"
            )
        return Condition(label=label)


class SourceLabelConditioning(DroppableConditioning):
    """The condition c = y0, the label of the source point.

    Args:
        dropout: Probability of dropping the label of a row, in [0, 1).
    """

    def shape(self, source: Distribution, target: Distribution) -> ConditionShape:
        return _label_shape(source, "source")

    def whole(self, pair: Pair) -> Condition:
        return Condition(label=_label_of(pair.source, "source"))

    def sampling(self, source: Sample, label: Tensor | None) -> Condition:
        """The labels of the starts.

        Args:
            source: Starts x0, B rows, with their labels.
            label: Requested target labels; not used.

        Raises:
            FlowportError: When the starts have no labels.
        """
        if source.label is None:
            raise FlowportError("this flow was trained with conditioning=source_label: its input points need labels")
        return Condition(label=source.label)
