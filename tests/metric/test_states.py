"""Every metric as a state: batches, ranks, floors, precision, keys."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flowport.data.agreement import agreed
from flowport.distribution.base import Stored
from flowport.errors import FlowportError
from flowport.metric import (
    MMD,
    ClassAccuracy,
    ClassDiversity,
    ClassPreservation,
    EnergyDistance,
    FrechetDistance,
    Geometry,
    KernelDistance,
    Metric,
    NormalisedPathEnergy,
    Partners,
    SlicedWasserstein,
    Straightness,
    TargetShare,
    TransportCost,
    Wasserstein,
    frechet_distance,
    wasserstein_2,
)
from flowport.metric.preservation import chance, matched_agreement
from flowport.modality import Plane
from flowport.types import Sample
from tests.metric.outcomes import draw, outcome_of, part


class Thirds(nn.Module):
    """Features are the coordinates doubled; the class of a point is its first coordinate, rounded into 0, 1, 2."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout(0.5)

    def features(self, x: Tensor) -> Tensor:
        return self.dropout(self.scale * x.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return -(x.flatten(1)[:, :1] - torch.arange(3, device=x.device)).abs()


MEMBERS: list[Callable[[], Metric]] = [
    lambda: Wasserstein(points=50),
    lambda: SlicedWasserstein(projections=8),
    EnergyDistance,
    lambda: MMD(points=40),
    NormalisedPathEnergy,
    Straightness,
    TransportCost,
    lambda: FrechetDistance(classifier=Thirds(), name="thirds"),
    lambda: KernelDistance(classifier=Thirds(), name="thirds", subsets=5),
    lambda: ClassPreservation(classifier=Thirds(), name="thirds"),
    lambda: TargetShare(classifier=Thirds()),
    Partners,
    lambda: Geometry(matched=20),
    lambda: ClassAccuracy(classifier=Thirds()),
    ClassDiversity,
]
everywhere = pytest.mark.parametrize("member", MEMBERS, ids=lambda m: type(m()).__name__)
WITH_FLOOR = {"w2", "sliced_w2", "energy", "mmd", "fd_thirds", "kid_thirds"}


def fed(member: Callable[[], Metric], *outcomes) -> Metric:
    metric = member()
    for outcome in outcomes:
        metric.update(outcome)
    return metric


@everywhere
def test_three_batches_are_one_and_ranks_merge(member: Callable[[], Metric]):
    whole = outcome_of()
    batches = [part(whole, where) for where in (slice(0, 7), slice(7, 40), slice(40, 60))]
    want = fed(member, whole).compute()
    torch.testing.assert_close(fed(member, *batches).compute(), want, rtol=1e-12, atol=1e-12)
    first, second = fed(member, batches[0]), fed(member, *batches[1:])
    second.merge_state(first)  # puts the incoming state first
    torch.testing.assert_close(second.compute(), want, rtol=1e-12, atol=1e-12)
    assert any(abs(float(want[k]) - float(v)) > 1e-6 for k, v in fed(member, batches[1]).compute().items())


@everywhere
def test_values_are_finite_scalars_and_say_their_n(member: Callable[[], Metric]):
    found = fed(member, outcome_of()).compute()
    assert all(v.ndim == 0 and bool(v.isfinite()) for v in found.values())
    assert sum(key.endswith("_n") for key in found) == 1
    for name in WITH_FLOOR & found.keys():
        assert {f"{name}_floor", f"{name}_untranslated"} <= found.keys()
        # target and floor are N(0, I), the result is N(1, I), the source N(3, I)
        assert found[f"{name}_floor"] < found[name] < found[f"{name}_untranslated"]


def test_every_distance_has_a_floor():
    names = {key for member in MEMBERS for key in fed(member, outcome_of()).compute()}
    assert names >= WITH_FLOOR


@everywhere
def test_bfloat16_points_under_autocast_are_measured_in_float64(member: Callable[[], Metric]):
    low = outcome_of(dtype=torch.bfloat16)
    # the same numbers, stored in float64
    high = outcome_of(
        source=low.source.with_x(low.source.x.double()),
        result=low.result.double(),
        target=low.target.with_x(low.target.x.double()),
        floor=low.floor.with_x(low.floor.x.double()),
        candidates=low.candidates.with_x(low.candidates.x.double()),
        states=low.states.double(),
        velocity=lambda x, t: low.velocity(x.bfloat16(), t).double(),
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = fed(member, low).compute()
    assert all(v.dtype == torch.float64 for key, v in found.items() if not key.endswith("_n"))
    torch.testing.assert_close(found, fed(member, high).compute(), rtol=1e-9, atol=1e-12)


@everywhere
def test_a_metric_that_saw_nothing_refuses(member: Callable[[], Metric]):
    with pytest.raises(FlowportError), pytest.warns(UserWarning, match="before the ``update``"):
        member().compute()


@everywhere
def test_reset_forgets(member: Callable[[], Metric]):
    metric = fed(member, part(outcome_of(), slice(0, 20)))
    metric.reset()
    metric.update(outcome_of())
    torch.testing.assert_close(metric.compute(), fed(member, outcome_of()).compute())


def test_result_and_floor_are_measured_on_as_many_points():
    outcome = outcome_of()
    found = fed(Wasserstein, outcome_of(floor=outcome.floor[:25])).compute()
    assert int(found["w2_n"]) == 25
    torch.testing.assert_close(found["w2_floor"], wasserstein_2(outcome.floor.x[:25], outcome.target.x))
    none = fed(Wasserstein, outcome_of(floor=outcome.floor[:0])).compute()
    assert "w2_floor" not in none
    torch.testing.assert_close(none["w2"], wasserstein_2(outcome.result, outcome.target.x))


def test_idle_translation_is_left_out_between_shapes():
    other = Sample(draw(60, 5, 0), label=torch.arange(60) % 3)
    found = fed(lambda: FrechetDistance(classifier=Thirds(), name="a"), outcome_of(source=other)).compute()
    assert found.keys() == {"fd_a", "fd_a_floor", "fd_a_n"}
    found = fed(lambda: ClassPreservation(classifier=Thirds()), outcome_of(source=other)).compute()
    assert "class_preservation_untranslated" not in found
    found = fed(lambda: TargetShare(classifier=Thirds()), outcome_of(source=other)).compute()
    assert found.keys() == {"target_share", "target_share_floor", "target_share_n"}


def test_frechet_ratios_and_evaluation_mode():
    classifier = Thirds().train()
    outcome = outcome_of()
    found = fed(lambda: FrechetDistance(classifier=classifier, name="a"), outcome).compute()
    want = frechet_distance(2 * outcome.result.float(), 2 * outcome.target.x.float())  # no dropout
    torch.testing.assert_close(found["fd_a"], want)
    torch.testing.assert_close(found["fd_a_ratio"], found["fd_a"] / found["fd_a_untranslated"])
    torch.testing.assert_close(found["fd_a_ratio_floor"], found["fd_a_floor"] / found["fd_a_untranslated"])


def points(*first: int) -> Tensor:
    return torch.tensor([[float(f), 9.0] for f in first])


def test_target_share_counted_by_hand():
    """The most common class of the target is 1: the source has it 1 time of 4, the results 2, the target 3."""
    outcome = outcome_of(
        source=Sample(points(0, 1, 2, 2)), result=points(1, 0, 1, 2), target=Sample(points(1, 2, 1, 1))
    )
    found = fed(lambda: TargetShare(classifier=Thirds()), outcome).compute()
    assert {key.removeprefix("target_share"): float(value) for key, value in found.items()} == {
        "": 0.5,
        "_untranslated": 0.25,
        "_floor": 0.75,
        "_n": 4,
    }


def preservation(outcome):
    """The values of class preservation by the rest of their names."""
    found = fed(lambda: ClassPreservation(classifier=Thirds()), outcome).compute()
    return {key.removeprefix("class_preservation"): float(value) for key, value in found.items()}


def test_class_preservation_counted_by_hand():
    outcome = outcome_of(
        source=Sample(points(0, 1, 2, 2), label=torch.tensor([0, 1, 2, 0])),
        result=points(0, 1, 1, 1),
        target=Sample(points(0, 1, 2, 1), label=torch.tensor([2, 1, 0, 2])),
    )
    assert preservation(outcome) == {
        "": 0.5,  # 0 and 1 kept
        "_untranslated": 0.75,
        "_ceiling": 0.25,
        "_chance": 0.5 * 0.25 + 0.25 * 0.5 + 0.25 * 0.25,
        "_matched": 0.5,
        "_n": 4,
    }


def test_classes_that_the_target_lacks_are_left_out_and_counted():
    """Labels 3 and 4 are beyond the classifier's three classes; the ceiling is over target points of class 0 and 1."""
    outcome = outcome_of(
        source=Sample(points(0, 1, 2, 2), label=torch.tensor([0, 3, 1, 4])),
        result=points(0, 1, 0, 1),
        target=Sample(points(0, 0, 2, 1), label=torch.tensor([0, 1, 0, 2])),
    )
    assert preservation(outcome) == {
        "": 0.5,
        "_untranslated": 0.5,
        "_ceiling": pytest.approx(1 / 3),
        "_chance": 0.5 * 0.5 + 0.5 * 0.25,
        "_matched": 0.5,
        "_n": 2,
        "_left_out": 2,
    }
    foreign = outcome_of(source=Sample(draw(60, 2, 0), label=torch.full((60,), 7)))
    with pytest.raises(FlowportError, match="no source point of a class that the target has"):
        fed(lambda: ClassPreservation(classifier=Thirds()), foreign).compute()


def test_sides_without_a_common_class_are_refused_before_training():
    def side(names: tuple[str, ...], labels: list[int]) -> Stored:
        every = torch.arange(len(labels))
        splits = {"train": every, "validation": every, "test": every}
        raw = torch.zeros(len(labels), 2)
        return Stored("side", raw, torch.tensor(labels), Plane(), splits, "train", len(names), names)

    metric = ClassPreservation(classifier=Thirds())
    metric.check(*agreed(side(("cat", "dog"), [0, 1]), side(("cow", "dog"), [0, 1])))
    with pytest.raises(FlowportError, match="the target has cow, hen: give the class folders the same names"):
        metric.check(*agreed(side(("cat", "dog"), [0, 1]), side(("cow", "hen"), [0, 1])))


def test_the_transport_cost_is_at_least_that_of_the_cheapest_pairing_of_the_same_points():
    """Two points swap their places: |x0 − x1|² = 4 for both, and staying would cost nothing."""
    swapped = outcome_of(source=Sample(points(0, 2)), result=points(2, 0))
    found = fed(TransportCost, swapped).compute()
    assert float(found["transport_cost"]) == 4 and float(found["transport_cost_least"]) == 0
    moved = outcome_of(source=Sample(points(0, 2)), result=points(3, 5))
    found = fed(TransportCost, moved).compute()
    assert float(found["transport_cost"]) == float(found["transport_cost_least"]) == 9
    many = fed(lambda: TransportCost(points=10), outcome_of()).compute()
    assert 0 < float(many["transport_cost_least"]) <= float(many["transport_cost"]) * 2


def test_a_translation_with_its_partner_in_the_target_is_not_compared():
    outcome = outcome_of()
    near = outcome.target.x.clone()
    found = fed(Wasserstein, outcome_of(result=near, compared=torch.arange(30, 60))).compute()
    assert int(found["w2_n"]) == 30
    torch.testing.assert_close(found["w2"], wasserstein_2(near[30:], outcome.target.x))


def test_a_renaming_of_classes_is_found_and_chance_is_what_a_shuffle_gives():
    label = torch.arange(300) % 3
    renamed = torch.tensor([1, 2, 0])[label]  # a 3-cycle, so that its inverse is not itself
    renamed[:30] = 0
    assert float(matched_agreement(label, renamed)) == pytest.approx(280 / 300)
    assert float(chance(label, renamed)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("label", [None, torch.zeros(60, 2), torch.zeros(60)])
def test_class_preservation_needs_classes(label: Tensor | None):
    outcome = outcome_of(source=Sample(draw(60, 2, 0), label=label))
    with pytest.raises(FlowportError, match="classifier digits"):
        fed(lambda: ClassPreservation(classifier=Thirds(), name="digits"), outcome)


@pytest.mark.parametrize("make", [FrechetDistance, KernelDistance])
def test_what_was_retrieved_is_measured_as_translations_are(make):
    found = outcome_of()
    reported = fed(lambda: make(classifier=Thirds(), name="a"), outcome_of(retrieved=found.result)).compute()
    name = next(key.removesuffix("_retrieved") for key in reported if key.endswith("a_retrieved"))
    assert reported[f"{name}_retrieved"] == reported[name] != reported[f"{name}_floor"]
    unasked = fed(lambda: make(classifier=Thirds(), name="a"), outcome_of()).compute()
    assert make.needs_retrieval and not any("retrieved" in key for key in unasked)
    assert not any("retrieved" in k for k in fed(Wasserstein, outcome_of(retrieved=found.result)).compute())
