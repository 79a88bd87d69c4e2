"""Couplings that respect labels: the class stays, or the source stays independent of the condition."""

import pytest
import torch

from flowport.cost import StandardisedCost
from flowport.coupling import ClassConditionalCoupling, ConditionAwareCoupling, ExactCoupling
from flowport.coupling.condition_aware import weight_for
from flowport.errors import FlowportError
from flowport.types import Pair, Sample
from tests.coupling.batches import optimum, seeded, squares


def scaled_squares(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return StandardisedCost()(Sample(a), Sample(b))


def labelled(n: int = 90, classes: int = 3, seed: int = 0) -> Pair:
    g = seeded(seed)
    y0 = (torch.arange(n) % classes)[torch.randperm(n, generator=g)]
    y1 = (torch.arange(n) % classes)[torch.randperm(n, generator=g)]
    # classes sit at match_by_swaps places, so that plain OT would mix them
    x0 = torch.randn(n, 2, generator=g) * 0.3 + y0[:, None]
    x1 = torch.randn(n, 2, generator=g) * 0.3 + ((y1 + 1) % classes)[:, None]
    return Pair(Sample(x0, y0), Sample(x1, y1))


def test_class_conditional_keeps_classes_and_is_optimal_inside_each():
    pair = labelled()
    match = ClassConditionalCoupling()(pair, seeded())
    assert torch.equal(pair.source.label[match.i], pair.target.label[match.j])
    assert match.j.sort().values.tolist() == list(range(90))
    cost = squares(pair)
    best = sum(optimum(cost[pair.source.label == c][:, pair.target.label == c]) for c in range(3))
    assert float(cost[match.i, match.j].sum()) == pytest.approx(best, rel=1e-9)
    assert match.facts["cost"] == pytest.approx(best / 90, rel=1e-6)
    mixed = ExactCoupling()(pair, seeded())
    assert not torch.equal(pair.source.label[mixed.i], pair.target.label[mixed.j])


def test_class_conditional_refusals():
    pair = labelled()
    wrong = Pair(pair.source, Sample(pair.target.x, torch.zeros(90, dtype=torch.long)))
    with pytest.raises(FlowportError, match="pairing=class_matched"):
        ClassConditionalCoupling()(wrong, seeded())
    with pytest.raises(FlowportError, match="source has no labels"):
        ClassConditionalCoupling()(Pair(Sample(pair.source.x), pair.target), seeded())
    with pytest.raises(FlowportError, match="target has torch"):
        ClassConditionalCoupling()(Pair(pair.source, Sample(pair.target.x, torch.rand(90, 2))), seeded())


def conditioned(n: int, seed: int, continuous: bool = False) -> Pair:
    """A centred Gaussian source, and a target whose place is its label."""
    g = seeded(seed)
    y = torch.rand(n, 1, generator=g) * 2 - 1 if continuous else torch.randint(0, 2, (n,), generator=g)
    place = y if continuous else 4.0 * y[:, None] - 2
    x1 = torch.cat([place.float() * 2, torch.zeros(n, 1)], 1) + 0.1 * torch.randn(n, 2, generator=g)
    return Pair(Sample(torch.randn(n, 2, generator=g)), Sample(x1, y))


def test_condition_aware_never_crosses_classes_and_keeps_the_source_law_given_the_class():
    means, plain = [], []
    for seed in range(20):
        pair = conditioned(200, seed)
        match = ConditionAwareCoupling()(pair, seeded())
        # the label of source i is that of its partner before the re-pairing
        assert torch.equal(pair.target.label[match.i], pair.target.label[match.j])
        assert match.j.sort().values.tolist() == list(range(200))
        for found, list_ in ((match, means), (ExactCoupling()(pair, seeded()), plain)):
            new = pair.take(found.i, found.j)
            list_.append(float(new.source.x[new.target.label == 1, 0].mean()))
    # 20 seeds of about 100 points: standard error of the mean 1/sqrt(2000) = .022
    assert abs(sum(means) / 20) < 4 * 0.0224
    assert sum(plain) / 20 > 0.5


def test_condition_aware_beats_identity_inside_classes():
    pair = conditioned(100, 0)
    match = ConditionAwareCoupling()(pair, seeded())
    cost = squares(pair)
    blocks = [pair.target.label == c for c in (0, 1)]
    assert float(cost[match.i, match.j].sum()) == pytest.approx(sum(optimum(cost[b][:, b]) for b in blocks), rel=1e-9)


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.4])
def test_ratio_is_met(ratio):
    pair = conditioned(120, 1, continuous=True)
    cost = squares(pair)
    distance = scaled_squares(pair.target.label, pair.target.label).fill_diagonal_(0)
    weight = weight_for(ratio, cost, distance)
    share = (cost + weight * (1 - 1e-9) * distance <= cost.diagonal()[:, None]).double().mean()
    assert weight > 0
    assert float(share) == pytest.approx(ratio, abs=1e-3)
    assert ConditionAwareCoupling(ratio)(pair, seeded()).facts["weight"] == pytest.approx(weight, rel=1e-6)


def test_weight_is_zero_where_ratio_asks_for_more_than_there_is_and_finite_for_repeated_labels():
    cost = torch.rand(30, 30, generator=seeded(), dtype=torch.float64) + 1
    cost.fill_diagonal_(0.5)
    labels = torch.rand(30, 1, generator=seeded(1), dtype=torch.float64)
    assert weight_for(0.9, cost, scaled_squares(labels, labels)) == 0
    same = (torch.arange(30) % 2).double()[:, None]
    cost.fill_diagonal_(3.0)
    found = weight_for(0.1, cost, scaled_squares(same, same))
    assert 0 < found < float("inf")


def test_continuous_weight_trades_cost_for_the_condition():
    pair = conditioned(150, 2, continuous=True)
    label = pair.target.label[:, 0]
    change, cost = [], []
    for weight in (0.0, 1.0, 100.0, 1e6):
        match = ConditionAwareCoupling(weight=weight)(pair, seeded())
        change.append(float((label[match.i] - label[match.j]).square().mean()))
        cost.append(match.facts["cost"])
    assert change == sorted(change, reverse=True)
    assert change[0] > change[-1]
    assert cost == sorted(cost)
    free = ExactCoupling()(pair, seeded())
    assert torch.equal(ConditionAwareCoupling(weight=0.0)(pair, seeded()).j, free.j)
    assert torch.equal(ConditionAwareCoupling(weight=1e12)(pair, seeded()).j, torch.arange(150))


def test_continuous_keeps_more_of_the_source_law_than_plain_transport():
    def dependence(coupling):
        values = []
        for seed in range(10):
            pair = conditioned(200, seed, continuous=True)
            match = coupling(pair, seeded())
            both = torch.stack([pair.source.x[match.i, 0], pair.target.label[match.j, 0]])
            values.append(float(torch.corrcoef(both)[0, 1]))
        return sum(values) / 10

    assert dependence(ExactCoupling()) > 0.9
    assert abs(dependence(ConditionAwareCoupling(weight=1e6))) < 0.1
    assert (
        dependence(ConditionAwareCoupling(0.05)) < dependence(ConditionAwareCoupling(0.2)) < dependence(ExactCoupling())
    )


def test_condition_aware_refusals():
    pair = labelled()
    with pytest.raises(FlowportError, match="needs a labelled target"):
        ConditionAwareCoupling()(Pair(pair.source, Sample(pair.target.x)), seeded())
    with pytest.raises(FlowportError, match="needs a partner"):
        ConditionAwareCoupling()(Pair(pair.source[:80], pair.target), seeded())
    for build in (
        lambda: ConditionAwareCoupling(0.0),
        lambda: ConditionAwareCoupling(1.5),
        lambda: ConditionAwareCoupling(weight=-1.0),
    ):
        with pytest.raises(FlowportError, match=r"coupling\.(ratio|weight)"):
            build()
