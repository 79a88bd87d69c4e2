"""Whether translations have the requested class, and how diverse they are: numbers counted by hand."""

import math

import pytest
import torch

from flowport.distribution import Gaussian, Moons
from flowport.errors import FlowportError
from flowport.metric import ClassAccuracy, ClassDiversity
from flowport.types import ConditionShape, Sample
from tests.metric.outcomes import outcome_of
from tests.metric.test_states import Thirds


def found(metric, **changes):
    metric.update(outcome_of(**changes))
    return metric.compute()


def test_accuracy_counts_what_was_told_and_not_what_the_source_was():
    seen = torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0])
    points, requested = torch.stack([seen, 9 * torch.ones(5)], 1).double(), torch.tensor([0, 1, 1, 1, 2])
    target = Sample(torch.tensor([[0.0, 0], [1, 0], [2, 0], [2, 0]]).double(), torch.tensor([0, 1, 2, 0]))
    values = found(ClassAccuracy(Thirds()), result=points, condition_label=requested, target=target)
    assert values["class_accuracy"] == 3 / 5 and values["class_accuracy_ceiling"] == 3 / 4


def test_diversity_is_the_ratio_of_mean_distances_within_a_class():
    corners = torch.tensor([[0.0, 0], [3, 0], [0, 4]])  # distances 3, 4, 5: mean 4
    target = Sample(torch.cat([corners, corners + 100]).double(), torch.tensor([0, 0, 0, 1, 1, 1]))
    requested = torch.tensor([0, 0, 0, 1, 1, 1])
    result = torch.cat([corners / 2, torch.zeros(3, 2)]).double()  # half as wide, and collapsed
    floor = Sample(target.x * 3, target.label)
    values = found(ClassDiversity(), result=result, condition_label=requested, target=target, floor=floor)
    assert float(values["class_diversity"]) == pytest.approx((0.5 + 0) / 2, abs=1e-9)
    assert float(values["class_diversity_floor"]) == pytest.approx(3, abs=1e-6)


def test_a_class_with_one_translation_has_no_diversity_and_is_left_out():
    corners = torch.tensor([[0.0, 0], [3, 0], [0, 4]]).double()
    target = Sample(torch.cat([corners, corners]), torch.tensor([0, 0, 0, 1, 1, 1]))
    values = found(
        ClassDiversity(),
        result=torch.cat([corners, corners[:1]]),
        condition_label=torch.tensor([0, 0, 0, 1]),
        target=target,
        floor=target,
    )
    assert float(values["class_diversity"]) == pytest.approx(1, abs=1e-9)
    assert not math.isnan(float(values["class_diversity_floor"]))


@pytest.mark.parametrize("metric", [ClassAccuracy(Thirds()), ClassDiversity()])
def test_a_flow_that_is_told_nothing_is_refused_when_the_run_is_built(metric):
    metric.check_condition(ConditionShape(classes=3))
    metric.check(Gaussian(), Moons())
    with pytest.raises(FlowportError, match="conditioning=target_label"):
        metric.check_condition(ConditionShape(source=True))
    with pytest.raises(FlowportError, match="needs target points with classes"):
        metric.check(Moons(), Gaussian())
