"""Classifier metrics of translations: whether they are of the target, and whether they preserve the source's class.

References:
    Asadulaev et al. 2022, "Neural optimal transport with general cost functionals", arXiv:2205.15403 (accuracy of
        class-preserving maps).
"""

import torch
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from flowport.data.agreement import class_names, common_classes, shortened
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.features import frozen, read
from flowport.metric.two_sample import gathered
from flowport.types import Sample


def agreement(label: Int[Tensor, "n"], predicted: Int[Tensor, "n"]) -> Tensor:
    """Share of rows in which two labels agree, a float64 scalar in [0, 1].

    Args:
        label: Classes, (n,).
        predicted: Classes, (n,).
    """
    return (label == predicted).double().mean()


def chance(label: Int[Tensor, "n"], predicted: Int[Tensor, "m"]) -> Tensor:
    """Agreement of independent labels, Σ_c P(label = c) P(predicted = c), a float64 scalar.

    Args:
        label: Classes, (n,).
        predicted: Classes, (m,).
    """
    classes = 1 + int(torch.cat([label, predicted]).max())
    shares = [torch.bincount(x, minlength=classes).double() / len(x) for x in (label, predicted)]
    return (shares[0] * shares[1]).sum()


def matched_agreement(label: Int[Tensor, "n"], predicted: Int[Tensor, "n"]) -> Tensor:
    """Agreement under the best one-to-one renaming of classes (Hungarian algorithm on the counts), a float64 scalar.

    For datasets whose class numbers mean different things. The renaming is chosen on the same points, so the value is
    biased upwards when these are few.

    Args:
        label: Classes, (n,).
        predicted: Classes, (n,).

    References:
        Kuhn 1955, "The Hungarian method for the assignment problem", doi:10.1002/nav.3800020109.
    """
    classes = 1 + int(torch.cat([label, predicted]).max())
    counts = torch.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes).cpu()
    row, column = linear_sum_assignment(counts.numpy(), maximize=True)
    return counts[row, column].sum().double() / len(label)


def predicted(classifier: nn.Module, x: Tensor) -> Tensor:
    """The class that a classifier predicts for every point, (n,).

    Args:
        classifier: The network.
        x: Points, (n, *D).
    """
    return read(classifier, x, features=False).argmax(dim=1)


class TargetShare(Metric):
    """Share of translations that a classifier assigns to the class to which it assigns most real target points.

    Values: ``target_share``; ``_floor``, the share of real target points; ``_untranslated``, that of source points,
    where they have the target's shape; ``_n``, the number of translations.

    Args:
        classifier: Network from points to logits.
        name: Name of the classifier; not used.
    """

    result: list[Tensor]
    real: list[Tensor]
    untranslated: list[Tensor]

    def __init__(self, classifier: nn.Module, name: str = "classifier") -> None:
        super().__init__()
        self.classifier = frozen(classifier)
        for state in ("result", "real", "untranslated"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, outcome: EvaluationResult) -> None:
        self.result.append(predicted(self.classifier, outcome.result))
        self.real.append(predicted(self.classifier, outcome.target.x))
        if outcome.source.x.shape[1:] == outcome.target.x.shape[1:]:
            self.untranslated.append(predicted(self.classifier, outcome.source.x))

    def compute(self) -> dict[str, Tensor]:
        """The shares and the number of translations, by name.

        Raises:
            FlowportError: Before the first update.
        """
        result, real = gathered(self.result), gathered(self.real)
        if result is None or real is None:
            raise FlowportError("the target share has seen no translation")
        wanted = real.mode().values
        states = {"": result, "_floor": real, "_untranslated": gathered(self.untranslated)}
        values = {f"target_share{k}": (v == wanted).double().mean() for k, v in states.items() if v is not None}
        return values | {"target_share_n": torch.tensor(len(result))}


class ClassPreservation(Metric):
    """Share of translations to which the target's classifier assigns the class of the source point.

    Source points of classes that the target does not have are left out and counted. Values:

        class_preservation  the share;
        _untranslated       the share of the source points themselves, where they have the target's shape;
        _ceiling            the classifier's accuracy on real target points, the value of a perfect translation;
        _chance             Σ_c P(source label c) P(target predicted c), the value of an independent coupling;
        _matched            the share under the best one-to-one renaming of classes (``matched_agreement``);
        _n                  the number of translations;
        _left_out           the number of those that were left out.

    ``_ceiling`` is over target points of the classes of the source points.

    Args:
        classifier: Network from points to logits, one per class of the target.
        name: Name of the classifier in messages.
    """

    label: list[Tensor]
    predicted: list[Tensor]
    untranslated: list[Tensor]
    target_label: list[Tensor]
    target_predicted: list[Tensor]
    left_out: Tensor

    def __init__(self, classifier: nn.Module, name: str = "classifier") -> None:
        super().__init__()
        self.classifier, self.name = frozen(classifier), name
        for state in ("label", "predicted", "untranslated", "target_label", "target_predicted"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.add_state("left_out", default=torch.tensor(0), dist_reduce_fx="sum")

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that both sides have items of a common class.

        Args:
            source: The source.
            target: The target.

        Raises:
            FlowportError: When both have classes, but none in common.
        """
        if source.classes and target.classes and not common_classes(source, target):
            raise FlowportError(
                f"metric=class_preservation needs a class of the source that the target has too, but the target has "
                f"{shortened(class_names(target))}: give the class folders the same names, or leave it out of "
                "metric=[…]"
            )

    def update(self, outcome: EvaluationResult) -> None:
        """Add the predicted classes of a batch.

        Args:
            outcome: An evaluation whose source has class labels.

        Raises:
            FlowportError: When the source points have no class labels.
        """
        label = self._classes(outcome.source)
        if label is None:
            raise FlowportError(
                f"class preservation (classifier {self.name}) needs a class label of every source point, and this "
                "source has none: leave metric ClassPreservation out or use a labelled source"
            )
        logits = read(self.classifier, outcome.result, features=False)
        known = label < logits.shape[1]
        self.left_out += int((~known).sum())
        self.label.append(label[known])
        self.predicted.append(logits.argmax(dim=1)[known])
        self.target_predicted.append(predicted(self.classifier, outcome.target.x))
        if outcome.source.x.shape[1:] == outcome.target.x.shape[1:]:
            self.untranslated.append(predicted(self.classifier, outcome.source.x)[known])
        target_label = self._classes(outcome.target)
        if target_label is not None:
            self.target_label.append(target_label)

    def compute(self) -> dict[str, Tensor]:
        """The shares and the number of translations, by name.

        Raises:
            FlowportError: Before the first update, and without a source point of a class that the target has.
        """
        label, predicted = gathered(self.label), gathered(self.predicted)
        target_predicted, target_label = gathered(self.target_predicted), gathered(self.target_label)
        if label is None or predicted is None or target_predicted is None:
            raise FlowportError("class preservation has seen no translation")
        if len(label) == 0:
            raise FlowportError("class preservation has seen no source point of a class that the target has")
        values = {
            "": agreement(label, predicted),
            "_chance": chance(label, target_predicted),
            "_matched": matched_agreement(label, predicted),
            "_n": torch.tensor(len(label)),
        }
        if int(self.left_out):
            values["_left_out"] = self.left_out.double()
        untranslated = gathered(self.untranslated)
        if untranslated is not None:
            values["_untranslated"] = agreement(label, untranslated)
        if target_label is not None:
            shared = torch.isin(target_label, label)
            if bool(shared.any()):
                values["_ceiling"] = agreement(target_label[shared], target_predicted[shared])
        return {f"class_preservation{which}": value for which, value in values.items()}

    @staticmethod
    def _classes(sample: Sample) -> Tensor | None:
        label = sample.label
        return label if label is not None and label.ndim == 1 and not label.is_floating_point() else None
