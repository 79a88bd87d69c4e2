"""Whether a flow that is told a class obeys, and in how many ways."""

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
    """Mean Euclidean distance between two different points of one class -> (classes,) float64; NaN below 2 points."""
    x = rows(x)
    pairs = [distances(part, part) for part in (x[label == c] for c in range(classes))]
    return torch.stack([d.sum() / (len(d) * (len(d) - 1)) for d in pairs])


class ConditionalMetric(Metric, ABC):
    """A metric of translations and of the classes that the flow was told for them."""

    def check_condition(self, told: ConditionShape) -> None:
        if told.classes == 0:
            raise FlowportError(
                f"metric {type(self).__name__} asks whether a flow does what it is told, but this one is told no "
                "class: use conditioning=target_label, or other metrics"
            )

    def check(self, source: Distribution, target: Distribution) -> None:
        if target.classes == 0:
            raise FlowportError(f"metric {type(self).__name__} needs target points with classes: choose other metrics")


@final
class ClassAccuracy(ConditionalMetric):
    """``class_accuracy``: share of translations in which the target's ``classifier`` sees the class that was told;
    ``_ceiling``: of real target points, their own class; ``_n`` how many translations."""

    told: list[Tensor]
    seen: list[Tensor]
    real: list[Tensor]
    real_seen: list[Tensor]

    def __init__(self, classifier: nn.Module, name: str = "classifier") -> None:
        super().__init__()
        self.classifier = frozen(classifier)
        for state in ("told", "seen", "real", "real_seen"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        assert outcome.told is not None and outcome.target.label is not None
        self.told.append(outcome.told)
        self.real.append(outcome.target.label)
        self.seen.append(read(self.classifier, outcome.result, features=False).argmax(1))
        self.real_seen.append(read(self.classifier, outcome.target.x, features=False).argmax(1))

    def compute(self) -> dict[str, Tensor]:
        told, seen, real, real_seen = map(gathered, (self.told, self.seen, self.real, self.real_seen))
        if told is None or seen is None or real is None or real_seen is None:
            raise FlowportError("the class accuracy has seen no translation")
        return {
            "class_accuracy": agreement(told, seen),
            "class_accuracy_ceiling": agreement(real, real_seen),
            "class_accuracy_n": torch.tensor(len(told)),
        }


@final
class ClassDiversity(ConditionalMetric):
    """``class_diversity``: mean distance of two translations of one class over that of two real target points of this
    class, averaged over the classes; 1: as diverse as the data, 0: one point a class. ``_floor``: of further real
    points in place of the translations. Distances are Euclidean, of the points themselves."""

    result: list[Tensor]
    told: list[Tensor]
    floor: list[Tensor]
    floor_label: list[Tensor]
    target: list[Tensor]
    target_label: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("result", "told", "floor", "floor_label", "target", "target_label"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        assert outcome.told is not None and outcome.target.label is not None and outcome.floor.label is not None
        self.result.append(outcome.result)
        self.told.append(outcome.told)
        self.floor.append(outcome.floor.x)
        self.floor_label.append(outcome.floor.label)
        self.target.append(outcome.target.x)
        self.target_label.append(outcome.target.label)

    def compute(self) -> dict[str, Tensor]:
        states = (self.target, self.target_label, self.result, self.told, self.floor, self.floor_label)
        target, label, result, told, floor, floor_label = map(gathered, states)
        if target is None or label is None or result is None or told is None or floor is None or floor_label is None:
            raise FlowportError("the class diversity has seen no translation")
        classes = 1 + int(label.max())
        real = spread_within(target, label, classes)
        values = {"": (result, told), "_floor": (floor, floor_label)}
        return {
            f"class_diversity{which}": (spread_within(x, of, classes) / real).nanmean()
            for which, (x, of) in values.items()
        } | {"class_diversity_n": torch.tensor(len(told))}
