"""Accuracy and diversity of a flow that is conditioned on a class.

References:
    Shmelkov, Schmid and Alahari 2018, "How good is my GAN?", arXiv:1807.09499 (GAN-test: a classifier of real data
        reads generated points).
    Odena, Olah and Shlens 2016, "Conditional image synthesis with auxiliary classifier GANs", arXiv:1610.09585
        (diversity as a mean over pairs of one class, there of the similarity MS-SSIM).
"""

from abc import ABC
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.features import frozen, read
from flowport.metric.precision import distances, rows
from flowport.metric.preservation import agreement
from flowport.metric.two_sample import gathered
from flowport.types import ConditionShape


def spread_within(x: Float[Tensor, "n *d"], label: Int[Tensor, "n"], classes: int) -> Tensor:
    """Mean Euclidean distance between two different points of one class, (classes,) float64; NaN below 2 points.

    Args:
        x: Points, (n, *D).
        label: Their classes, (n,).
        classes: Number of classes.
    """
    x = rows(x)
    pairs = [distances(part, part) for part in (x[label == c] for c in range(classes))]
    return torch.stack([d.sum() / (len(d) * (len(d) - 1)) for d in pairs])


class ConditionalMetric(Metric, ABC):
    """A metric of translations and of the classes on which the flow was conditioned.

    A member reads ``outcome.condition_label``. To add a member, see ``Metric``.
    """

    def check_condition(self, shape: ConditionShape) -> None:
        """Check that the flow is conditioned on a class.

        Args:
            shape: The kinds of condition that the network takes.

        Raises:
            FlowportError: When the flow is not conditioned on a class.
        """
        if shape.classes == 0:
            raise FlowportError(
                f"metric {type(self).__name__} measures whether results have the class that the flow is "
                "conditioned on, but this flow has none: use conditioning=target_label, or other metrics"
            )

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that target points have class labels.

        Args:
            source: The source; not used.
            target: The target.

        Raises:
            FlowportError: When target points have no class labels.
        """
        if target.classes == 0:
            raise FlowportError(f"metric {type(self).__name__} needs target points with classes: choose other metrics")


@final
class ClassAccuracy(ConditionalMetric):
    """Share of translations to which the target's classifier assigns the class that the flow was conditioned on.

    Values: ``class_accuracy``; ``_ceiling``, the classifier's accuracy on real target points; ``_n``, the number of
    translations.

    Args:
        classifier: Network from points to logits.
        name: Name of the classifier; not used.
    """

    condition_label: list[Tensor]
    seen: list[Tensor]
    real: list[Tensor]
    real_seen: list[Tensor]

    def __init__(self, classifier: nn.Module, name: str = "classifier") -> None:
        super().__init__()
        self.classifier = frozen(classifier)
        for state in ("condition_label", "seen", "real", "real_seen"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        assert outcome.condition_label is not None and outcome.target.label is not None
        self.condition_label.append(outcome.condition_label)
        self.real.append(outcome.target.label)
        self.seen.append(read(self.classifier, outcome.result, features=False).argmax(1))
        self.real_seen.append(read(self.classifier, outcome.target.x, features=False).argmax(1))

    def compute(self) -> dict[str, Tensor]:
        """Accuracy, its ceiling and the number of translations, by name.

        Raises:
            FlowportError: Before the first update.
        """
        label, seen, real, real_seen = map(gathered, (self.condition_label, self.seen, self.real, self.real_seen))
        if label is None or seen is None or real is None or real_seen is None:
            raise FlowportError("the class accuracy has seen no translation")
        return {
            "class_accuracy": agreement(label, seen),
            "class_accuracy_ceiling": agreement(real, real_seen),
            "class_accuracy_n": torch.tensor(len(label)),
        }


@final
class ClassDiversity(ConditionalMetric):
    """Mean distance between two translations of one class over that between two real target points of this class.

    Values: ``class_diversity``, the mean of the ratio over the classes, 1 for the diversity of the data and 0 for one
    point per class; ``_floor``, the same of further real target points; ``_n``, the number of translations. Distances
    are Euclidean, between encoded points (``spread_within``).
    """

    result: list[Tensor]
    condition_label: list[Tensor]
    floor: list[Tensor]
    floor_label: list[Tensor]
    target: list[Tensor]
    target_label: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("result", "condition_label", "floor", "floor_label", "target", "target_label"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        assert (
            outcome.condition_label is not None and outcome.target.label is not None and outcome.floor.label is not None
        )
        self.result.append(outcome.result)
        self.condition_label.append(outcome.condition_label)
        self.floor.append(outcome.floor.x)
        self.floor_label.append(outcome.floor.label)
        self.target.append(outcome.target.x)
        self.target_label.append(outcome.target.label)

    def compute(self) -> dict[str, Tensor]:
        """Diversity, its floor and the number of translations, by name.

        Raises:
            FlowportError: Before the first update.
        """
        states = (self.target, self.target_label, self.result, self.condition_label, self.floor, self.floor_label)
        target, label, result, condition, floor, floor_label = map(gathered, states)
        if (
            target is None
            or label is None
            or result is None
            or condition is None
            or floor is None
            or floor_label is None
        ):
            raise FlowportError("the class diversity has seen no translation")
        classes = 1 + int(label.max())
        real = spread_within(target, label, classes)
        values = {"": (result, condition), "_floor": (floor, floor_label)}
        return {
            f"class_diversity{which}": (spread_within(x, of, classes) / real).nanmean()
            for which, (x, of) in values.items()
        } | {"class_diversity_n": torch.tensor(len(condition))}
