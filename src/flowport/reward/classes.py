"""Rewards that a classifier gives: which class a point is of, and how surely."""

import math
from abc import ABC
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.reward.base import Reward, in_its_precision, tried
from flowport.types import Condition


class ClassifierReward(Reward, ABC):
    """classifier: any network from points (B, *D) to logits (B, classes), used in its own precision."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def check(self, source: Distribution, target: Distribution) -> None:
        tried(self, target, self.log_probabilities)

    def log_probabilities(self, x: Tensor) -> Tensor:
        """log p(k | x) in nats, (B, classes)."""
        return log_softmax(self.classifier(in_its_precision(self.classifier, x)), 1)


class ClassReward(ClassifierReward, ABC):
    """label: the wanted class, or None for the class that the flow is told (the label of its condition)."""

    def __init__(self, classifier: nn.Module, label: int | None = None) -> None:
        super().__init__(classifier)
        self.label = label

    def check(self, source: Distribution, target: Distribution) -> None:
        if self.label is None and not source.classes and not target.classes:
            raise FlowportError(
                f"reward={self.called} reads the class that the flow is told, but neither side has class labels: "
                "give reward.label"
            )
        classes = tried(self, target, self.log_probabilities).shape[1]
        if self.label is not None and not 0 <= self.label < classes:
            raise FlowportError(f"reward.label is {self.label}, but the classifier knows the classes 0 … {classes - 1}")

    def of_class(self, x1: Tensor, condition: Condition) -> Tensor:
        """log p(class | x1) -> (B,). Raises FlowportError for a class that the classifier does not know."""
        found = self.log_probabilities(x1)
        wanted = condition.label if self.label is None else torch.full((len(x1),), self.label, device=x1.device)
        if wanted is None or wanted.ndim != 1 or wanted.is_floating_point():
            raise FlowportError(
                f"reward={self.called} reads the class that the flow is told, but it is told none: give reward.label "
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
    """r = log p(class | x1), nats, at most 0: the tilt is p(x1 | class), Bayes' rule, where the classifier is right."""

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return self.of_class(x1, condition)


@final
class ClassProbability(ClassReward):
    """r = scale · p(class | x1), in [0, scale]: bounded, so that no point can be worth more than e^scale of others."""

    def __init__(self, classifier: nn.Module, label: int | None = None, scale: float = 1.0) -> None:
        super().__init__(classifier, label)
        self.scale = scale

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return self.scale * self.of_class(x1, condition).exp()


@final
class Legibility(ClassifierReward):
    """r = log max_k p_T(k | x1), nats, in [−log classes, 0], p_T ∝ p^{1/temperature}: whatever it is, let it be clear.
    Needs no label.

    A classifier trained to the end is sure of nearly every point, so that log p differs only among the few that it
    cannot read; a temperature above 1 lets it tell clear points from clearer ones (Guo et al. 2017).
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
    """r = Σ_k p(k | x0) log p(k | x1), nats, at most 0: the classifier shall see in the translation what it sees in
    the source (the semantic consistency of Hoffman et al. 2018). Needs no label, but a flow that is told its source.
    """

    def check(self, source: Distribution, target: Distribution) -> None:
        if tuple(source.event_shape) != tuple(target.event_shape):
            raise FlowportError(
                f"reward={self.called} shows source and target to one classifier, but their points have the shapes "
                f"{source.event_shape} and {target.event_shape}"
            )
        super().check(source, target)

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        if condition.source is None:
            raise FlowportError(f"reward={self.called} needs a flow that is told its source: use conditioning=source")
        seen = self.log_probabilities(condition.source).exp()
        return (seen * self.log_probabilities(x1)).sum(1)
