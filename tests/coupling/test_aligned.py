"""Points inside pairs of clouds: bijections, the optimum, and marginals that stay."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from flowport.cost import SlicedCost
from flowport.cost.earth_mover import optimal_matching
from flowport.coupling import AlignedCoupling, ExactCoupling, IndependentCoupling
from flowport.coupling.aligned import match_by_swaps
from flowport.data.pairing import UnpairedPairing
from flowport.data.stream import PairStream
from flowport.distribution import Ellipsoid, Torus
from flowport.errors import FlowportError
from flowport.randomness import Randomness
from flowport.types import Pair, Sample
from tests.coupling.batches import seeded


def clouds(n: int = 12, points: int = 40) -> Pair:
    return UnpairedPairing(Ellipsoid(points), Torus(points)).pairs(0, n, Randomness(4))


def test_the_exact_assignment_undoes_a_shuffle():
    x = clouds().source.x
    shuffle = torch.stack([torch.randperm(40, generator=seeded(k)) for k in range(12)])
    mixed = x.gather(2, shuffle[:, None].expand(-1, 3, -1))
    order = optimal_matching(x, mixed)
    assert torch.equal(mixed.gather(2, order[:, None].expand(-1, 3, -1)), x)


def test_it_is_the_optimum_and_swaps_come_near_it():
    pair = clouds(20, 128)
    a, b = pair.source.x, pair.target.x
    cost = (a[:, :, :, None] - b[:, :, None]).double().square().sum(1)
    best = torch.tensor([cost[k].numpy()[linear_sum_assignment(cost[k].numpy())].sum() for k in range(20)])
    for order, slack in ((optimal_matching(a, b), 1 + 1e-6), (match_by_swaps(a, b, 400, seeded()), 1.08)):
        assert torch.equal(order.sort(1).values, torch.arange(128).expand(20, 128)), "not a bijection"
        found = cost.gather(2, order[:, :, None]).sum((1, 2))
        assert bool((found >= best - 1e-6).all()) and float(found.sum()) <= slack * float(best.sum())
    untouched = float(cost.diagonal(dim1=1, dim2=2).sum())
    assert float(best.sum()) < 0.5 * untouched


def test_swaps_begin_with_the_optimum_of_a_line():
    pair = clouds()
    a, b = (side.x * torch.tensor([1.0, 0, 0])[:, None] for side in (pair.source, pair.target))
    assert torch.equal(match_by_swaps(a, b, 0, seeded()), optimal_matching(a, b))


@pytest.mark.parametrize("inner", [IndependentCoupling(), ExactCoupling(SlicedCost())])
def test_every_cloud_stays_the_same_set_and_the_source_stays_as_it_is(inner):
    pair = clouds()
    plan = AlignedCoupling(inner)(pair, seeded())
    new = plan.apply(pair)
    rows = inner(pair, seeded())
    assert torch.equal(new.source.x, pair.source.x[rows.i])
    assert torch.equal(new.target.x.sort(2).values, pair.target.x[rows.j].sort(2).values)
    gap = (new.source.x - new.target.x).square().sum(1).mean()
    assert float(plan.facts["aligned"]) == pytest.approx(float(gap), rel=1e-5)
    assert rows.facts.items() <= plan.facts.items()
    some = torch.tensor([3, 1])
    assert torch.equal(plan.apply(pair, some).target.x, new.target.x[some])


def test_transport_between_clouds_lowers_the_cost_of_aligned_pairs():
    pair = clouds(64, 64)
    alone, both = (
        AlignedCoupling(inner)(pair, seeded()).facts["aligned"]
        for inner in (IndependentCoupling(), ExactCoupling(SlicedCost()))
    )
    assert both < 0.8 * alone


def test_the_sliced_cost_knows_no_order_and_never_exceeds_the_assignment():
    pair = clouds(6, 50)
    cost = SlicedCost(64)(pair.source, pair.target)
    shuffled = Sample(pair.target.x[:, :, torch.randperm(50, generator=seeded())])
    torch.testing.assert_close(SlicedCost(64)(pair.source, shuffled), cost, atol=1e-5, rtol=1e-5)
    a, b = pair.source.x, pair.target.x
    for i in range(6):
        order = optimal_matching(a[i].expand(6, 3, 50), b)
        moved = b.gather(2, order[:, None].expand(-1, 3, -1))
        assert bool((cost[i] <= (a[i] - moved).square().sum(1).mean(1) + 1e-6).all())
    line = Sample(pair.source.x + torch.tensor([2.0, 0, 0])[:, None])
    shift = SlicedCost(4000)(pair.source, line).diagonal()
    torch.testing.assert_close(shift, torch.full((6,), 4 / 3).double(), rtol=0.06, atol=0)  # |c|²/d


def test_a_pool_of_aligned_pairs_is_cut_by_step():
    pairing = UnpairedPairing(Ellipsoid(16), Torus(16))
    stream = PairStream(pairing, AlignedCoupling(ExactCoupling(SlicedCost())), Randomness(1), 8, 4)
    four = [stream.at(k) for k in range(4)]
    again = PairStream(pairing, AlignedCoupling(ExactCoupling(SlicedCost())), Randomness(1), 8, 4).at(2)
    assert torch.equal(four[2].target.x, again.target.x) and torch.equal(four[2].source.x, again.source.x)
    gap = torch.cat([(p.source.x - p.target.x).square().sum(1).mean(1) for p in four]).mean()
    assert float(stream.facts["aligned"]) == pytest.approx(float(gap), rel=1e-5)


@pytest.mark.parametrize(
    "coupling", [IndependentCoupling(), AlignedCoupling(), AlignedCoupling(ExactCoupling(SlicedCost()))]
)
def test_the_cost_of_the_training_pairs_is_told_whatever_the_coupling(coupling):
    """The mean over the pool of a step of |x0 − x1|²; aligned ones cost N times what ``aligned`` says of a point."""
    stream = PairStream(UnpairedPairing(Ellipsoid(16), Torus(16)), coupling, Randomness(1), 8, 4)
    pool = [stream.at(k) for k in range(4, 8)][: 1 if coupling.independent else 4]
    wanted = torch.stack([(p.source.x - p.target.x).square().sum((1, 2)).mean() for p in pool]).mean()
    facts = stream.facts_of(4)
    assert facts["pair_cost"] == pytest.approx(float(wanted), rel=1e-5)
    assert facts.get("aligned", facts["pair_cost"] / 16) == pytest.approx(facts["pair_cost"] / 16, rel=1e-5)


def test_what_are_no_clouds_is_refused():
    flat = Pair(Sample(torch.randn(4, 3)), Sample(torch.randn(4, 3)))
    with pytest.raises(FlowportError, match="use coupling=exact"):
        AlignedCoupling()(flat, seeded())
    with pytest.raises(FlowportError, match="cost=sliced compares clouds"):
        SlicedCost()(flat.source, flat.target)
    with pytest.raises(FlowportError, match="at least 1"):
        AlignedCoupling(swaps=0)


def test_masks_go_with_their_points():
    """A mask of the target that says "this point lies high" still says it after the points were ordered anew."""
    pair = clouds()
    high = Pair(pair.source, Sample(pair.target.x, mask=pair.target.x > 0.2))
    found = AlignedCoupling()(high, seeded()).apply(high).target
    assert torch.equal(found.mask, found.x > 0.2) and not torch.equal(found.mask, high.target.mask)
