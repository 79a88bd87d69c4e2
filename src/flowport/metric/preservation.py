"""What a translation keeps: is a translated three still a three?"""

import torch
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.features import frozen, read
from flowport.metric.two_sample import gathered
from flowport.types import Sample


def agreement(label: Int[Tensor, "n"], predicted: Int[Tensor, "n"]) -> Tensor:
    """The share of rows where both agree -> float64 scalar in [0, 1]."""
    return (label == predicted).double().mean()


def chance(label: Int[Tensor, "n"], predicted: Int[Tensor, "m"]) -> Tensor:
    """Σ_c P(label = c) P(predicted = c): how often both agree if neither knows of the other -> float64 scalar."""
    classes = 1 + int(torch.cat([label, predicted]).max())
    shares = [torch.bincount(x, minlength=classes).double() / len(x) for x in (label, predicted)]
    return (shares[0] * shares[1]).sum()


def matched_agreement(label: Int[Tensor, "n"], predicted: Int[Tensor, "n"]) -> Tensor:
    """The agreement under the best one-to-one renaming of classes (Hungarian, on the counts) -> float64 scalar.

    For datasets whose class numbers mean different things. Chosen on the same points, so biased up when these are few.
    """
    classes = 1 + int(torch.cat([label, predicted]).max())
    counts = torch.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes).cpu()
    row, column = linear_sum_assignment(counts.numpy(), maximize=True)
    return counts[row, column].sum().double() / len(label)


class TargetShare(Metric):
    """``target_share``: share of translations that the ``classifier`` gives the class it gives most real target points;
    ``_floor``: the share of these; ``_untranslated``: of source points of the target's shape; ``_n`` translations."""

    result: list[Tensor]
    real: list[Tensor]
    untranslated: list[Tensor]

    def __init__(self, classifier: nn.Module, name: str = "classifier") -> None:
        super().__init__()
        self.classifier = frozen(classifier)
        for state in ("result", "real", "untranslated"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        self.result.append(self._predict(outcome.result))
        self.real.append(self._predict(outcome.target.x))
        if outcome.source.x.shape[1:] == outcome.target.x.shape[1:]:
            self.untranslated.append(self._predict(outcome.source.x))

    def _predict(self, x: Tensor) -> Tensor:
        return read(self.classifier, x, features=False).argmax(dim=1)

    def compute(self) -> dict[str, Tensor]:
        result, real = gathered(self.result), gathered(self.real)
        if result is None or real is None:
            raise FlowportError("the target share has seen no translation")
        wanted = real.mode().values
        states = {"": result, "_floor": real, "_untranslated": gathered(self.untranslated)}
        values = {f"target_share{k}": (v == wanted).double().mean() for k, v in states.items() if v is not None}
        return values | {"target_share_n": torch.tensor(len(result))}


class ClassPreservation(Metric):
    """``class_preservation``: share of translations in which the target's ``classifier`` sees the source's class.

    ``_untranslated``  the same share for the source points themselves (where they have the target's shape);
    ``_ceiling``       the classifier's accuracy on real, labelled target points: what a perfect translation can reach;
    ``_chance``        Σ_c P(source label c) P(target predicted c): a perfect translation that forgets its source;
    ``_matched``       the share under the best one-to-one renaming of classes; ``_n`` how many translations.
    Raises FlowportError if the source carries no class labels.
    """

    label: list[Tensor]
    predicted: list[Tensor]
    untranslated: list[Tensor]
    target_label: list[Tensor]
    target_predicted: list[Tensor]

    def __init__(self, classifier: nn.Module, name: str = "classifier") -> None:
        super().__init__()
        self.classifier, self.name = frozen(classifier), name
        for state in ("label", "predicted", "untranslated", "target_label", "target_predicted"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        label = self._classes(outcome.source)
        if label is None:
            raise FlowportError(
                f"class preservation (classifier {self.name}) needs a class label of every source point, and this "
                "source has none: leave metric ClassPreservation out or use a labelled source"
            )
        self.label.append(label)
        self.predicted.append(self._predict(outcome.result))
        self.target_predicted.append(self._predict(outcome.target.x))
        if outcome.source.x.shape[1:] == outcome.target.x.shape[1:]:
            self.untranslated.append(self._predict(outcome.source.x))
        target_label = self._classes(outcome.target)
        if target_label is not None:
            self.target_label.append(target_label)

    def compute(self) -> dict[str, Tensor]:
        label, predicted = gathered(self.label), gathered(self.predicted)
        target_predicted, target_label = gathered(self.target_predicted), gathered(self.target_label)
        if label is None or predicted is None or target_predicted is None:
            raise FlowportError("class preservation has seen no translation")
        values = {
            "": agreement(label, predicted),
            "_chance": chance(label, target_predicted),
            "_matched": matched_agreement(label, predicted),
            "_n": torch.tensor(len(label)),
        }
        untranslated = gathered(self.untranslated)
        if untranslated is not None:
            values["_untranslated"] = agreement(label, untranslated)
        if target_label is not None:
            values["_ceiling"] = agreement(target_label, target_predicted)
        return {f"class_preservation{which}": value for which, value in values.items()}

    def _predict(self, x: Tensor) -> Tensor:
        return read(self.classifier, x, features=False).argmax(dim=1)

    @staticmethod
    def _classes(sample: Sample) -> Tensor | None:
        label = sample.label
        return label if label is not None and label.ndim == 1 and not label.is_floating_point() else None
