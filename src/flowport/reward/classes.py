"""Rewards from the class probabilities p(k | x) of a classifier."""

import math
from abc import ABC
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from flowport.distribution.base import Distribution
from flowport.errors import Amount, FlowportError
from flowport.reward.base import Reward, in_its_precision, tried
from flowport.types import Condition


class ClassifierReward(Reward, ABC):
    """A reward that reads points by a classifier.

    A member provides ``forward``. To add one, see ``Reward``.

    Args:
        classifier: Network from points (B, *D) to logits (B, classes), used in its own precision.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def check(self, source: Distribution, target: Distribution) -> None:
        tried(self, target, self.log_probabilities)

    def log_probabilities(self, x: Tensor) -> Tensor:
        """Log probabilities log p(k | x), (B, classes), in nats.

        Args:
            x: Points, (B, *D).
        """
        return log_softmax(self.classifier(in_its_precision(self.classifier, x)), 1)


class ClassReward(ClassifierReward, ABC):
    """A reward that reads the probability of one class.

    A member provides ``forward``. To add one, see ``Reward``.

    Args:
        classifier: Network from points (B, *D) to logits (B, classes).
        label: The class; None for the class that the flow is conditioned on.
    """

    def __init__(self, classifier: nn.Module, label: int | None = None) -> None:
        super().__init__(classifier)
        self.label = label

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that there is a class to read and that the classifier takes points of the target.

        Args:
            source: The source.
            target: The target.

        Raises:
            FlowportError: When neither side has class labels and none is given, and for a class that the classifier
                lacks.
        """
        if self.label is None and not source.classes and not target.classes:
            raise FlowportError(
                f"reward={self.called} reads the class that the flow is conditioned on, but neither side has class "
                "labels: "
                "give reward.label"
            )
        classes = tried(self, target, self.log_probabilities).shape[1]
        if self.label is not None and not 0 <= self.label < classes:
            raise FlowportError(f"reward.label is {self.label}, but the classifier knows the classes 0 … {classes - 1}")

    def of_class(self, x1: Tensor, condition: Condition) -> Tensor:
        """Log probability log p(class | x1), (B,), in nats.

        Args:
            x1: Points, (B, *D).
            condition: What the flow is conditioned on, B rows; its label is read where no class was given.

        Raises:
            FlowportError: For a condition without a class, and for a class that the classifier lacks.
        """
        found = self.log_probabilities(x1)
        wanted = condition.label if self.label is None else torch.full((len(x1),), self.label, device=x1.device)
        if wanted is None or wanted.ndim != 1 or wanted.is_floating_point():
            raise FlowportError(
                f"reward={self.called} reads the class that the flow is conditioned on, but it has none: give "
                "reward.label "
                "or use conditioning=source_label or target_label"
            )
        unknown = wanted[(wanted < 0) | (wanted >= found.shape[1])]
        if len(unknown):
            raise FlowportError(
                f"reward={self.called} was asked for class {int(unknown[0])}, but its classifier knows the "
                f"classes 0 … {found.shape[1] - 1}"
            )
        return found.gather(1, wanted[:, None])[:, 0]


@final
class ClassLogProbability(ClassReward):
    """Log probability of a class, r = log p(class | x1) ≤ 0, in nats.

    By Bayes' rule the tilt p(x1) e^r is proportional to p(x1 | class) where the classifier is exact.

    Args:
        classifier: Network from points (B, *D) to logits (B, classes).
        label: The class; None for the class that the flow is conditioned on.
    """

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return self.of_class(x1, condition)


@final
class ClassProbability(ClassReward):
    """Probability of a class, r = scale · p(class | x1), in [0, scale].

    It is bounded, so that e^r changes the ratio of two densities by at most e^scale.

    Args:
        classifier: Network from points (B, *D) to logits (B, classes).
        label: The class; None for the class that the flow is conditioned on.
        scale: Largest value of r.
    """

    def __init__(self, classifier: nn.Module, label: Amount | None = None, scale: float = 1.0) -> None:
        super().__init__(classifier, label)
        self.scale = scale

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return self.scale * self.of_class(x1, condition).exp()


@final
class Legibility(ClassifierReward):
    """Log probability of the most probable class, r = log max_k p_T(k | x1), with p_T ∝ p^{1/temperature}, in nats.

    r lies in [−log classes, 0]; no label is needed. A fully trained classifier is nearly certain of most points, so
    that at temperature 1 r differs among the ambiguous points only; a temperature above 1 resolves the others.

    Args:
        classifier: Network from points (B, *D) to logits (B, classes).
        temperature: Temperature of the probabilities, > 0 and finite.

    Raises:
        FlowportError: Unless 0 < temperature < ∞.

    References:
        Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599 (temperature scaling).
    """

    def __init__(self, classifier: nn.Module, temperature: float = 1.0) -> None:
        super().__init__(classifier)
        if not 0 < temperature < math.inf:
            raise FlowportError(f"reward.temperature must be a number above 0, not {temperature}")
        self.temperature = temperature

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return log_softmax(self.log_probabilities(x1) / self.temperature, 1).amax(1)


@final
class SemanticConsistency(ClassifierReward):
    """Negative cross-entropy of the classes of source and translation, r = Σ_k p(k | x0) log p(k | x1) ≤ 0, in nats.

    Needs no label, but a flow that is conditioned on its source, with points of the target's shape.

    Args:
        classifier: Network from points (B, *D) to logits (B, classes), for source and target alike.

    References:
        Hoffman et al. 2018, "CyCADA: cycle-consistent adversarial domain adaptation", arXiv:1711.03213 (semantic
            consistency).
    """

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that source and target points have one shape, which the classifier takes.

        Args:
            source: The source.
            target: The target.

        Raises:
            FlowportError: When the shapes differ or the classifier cannot take such points.
        """
        if tuple(source.event_shape) != tuple(target.event_shape):
            raise FlowportError(
                f"reward={self.called} shows source and target to one classifier, but their points have the shapes "
                f"{source.event_shape} and {target.event_shape}"
            )
        super().check(source, target)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        """Rewards r = Σ_k p(k | x0) log p(k | x1), (B,).

        Args:
            x1: Translations, (B, *D).
            condition: What the flow is conditioned on, with the source x0, (B, *D).

        Raises:
            FlowportError: For a condition without the source.
        """
        if condition.source is None:
            raise FlowportError(
                f"reward={self.called} needs a flow that is conditioned on its source: use conditioning=source"
            )
        seen = self.log_probabilities(condition.source).exp()
        return (seen * self.log_probabilities(x1)).sum(1)
