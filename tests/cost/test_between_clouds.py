"""Costs between clouds: closed forms, and what no order of points and no common turn may change."""

import pytest
import torch

from flowport.cost import ChamferCost, Cost, EarthMoverCost, SlicedCost, chamfer, earth_mover
from flowport.distribution import Capsule, Torus
from flowport.errors import FlowportError
from flowport.modality.cloud import rotations
from flowport.types import Sample
from tests.coupling.batches import optimum

CLOUDS = [ChamferCost, EarthMoverCost, SlicedCost]
every = pytest.mark.parametrize("make", CLOUDS, ids=lambda make: make.__name__)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two(n: int = 4, m: int = 5, points: int = 24) -> tuple[Sample, Sample]:
    return Torus(points).sample(n, seeded()), Capsule(points).sample(m, seeded(1))


@every
def test_the_order_of_points_means_nothing_and_both_ways_cost_the_same(make: type[Cost]):
    a, b = two()
    cost = make()(a, b)
    assert cost.shape == (4, 5) and float(cost.min()) > 0.01
    mixed = Sample(torch.stack([cloud[:, torch.randperm(24, generator=seeded(k))] for k, cloud in enumerate(b.x)]))
    for other in (make()(a, mixed), make()(b, a).T, make()(mixed, a).T):
        torch.testing.assert_close(other, cost, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(make()(a, a), make()(a, Sample(a.x.clone())), rtol=1e-4, atol=1e-4)
    assert float(make()(a, a).diagonal().abs().max()) < 1e-6
    torch.testing.assert_close(make()(Sample(3 * a.x), Sample(3 * b.x)), 9 * cost, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [ChamferCost, EarthMoverCost])
def test_clouds_that_are_turned_together_keep_their_cost(make: type[Cost]):
    a, b = two()
    turn = rotations(1, seeded(3))[0]
    torch.testing.assert_close(make()(Sample(turn @ a.x), Sample(turn @ b.x)), make()(a, b), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(make()(Sample(turn @ a.x), b), make()(a, b), rtol=0.01)


def test_closed_forms():
    """Moved by v, the earth mover pays |v|²; two points of a line at 0, 1 and at 0, 3: Chamfer 1/2 + 4/2."""
    a, _ = two()
    v = torch.tensor([0.3, -2.0, 0.7])
    moved = EarthMoverCost()(a, Sample(a.x + v[:, None])).diagonal()
    torch.testing.assert_close(moved, torch.full((4,), float(v.square().sum())).double(), rtol=1e-5, atol=0)
    line, longer = (Sample(torch.tensor([[[0.0, far]]])) for far in (1.0, 3.0))
    assert float(ChamferCost()(line, longer)) == pytest.approx(1 / 2 + 4 / 2)
    assert float(EarthMoverCost()(line, longer)) == pytest.approx(4 / 2)
    assert float(ChamferCost()(line, Sample(torch.tensor([[[0.0, 0.0, 3.0]]])))) == pytest.approx(1 / 2 + 4 / 3)


def test_the_earth_mover_is_the_least_of_all_assignments_and_bounds_the_others():
    a, b = two()
    cost, sliced, nearest = EarthMoverCost()(a, b), SlicedCost(32)(a, b), ChamferCost()(a, b)
    for i in range(4):
        for j in range(5):
            table = torch.cdist(a.x[i].T.double(), b.x[j].T.double()).square()
            assert float(cost[i, j]) == pytest.approx(optimum(table) / 24)
    assert bool((sliced <= cost).all()) and bool((nearest <= 2 * cost).all())


def test_pieces_are_as_the_whole(monkeypatch: pytest.MonkeyPatch):
    a, b = two()
    whole = (
        [make()(a, b) for make in (ChamferCost, EarthMoverCost)],
        [make()(b, b) for make in (ChamferCost, EarthMoverCost)],
    )
    monkeypatch.setattr(chamfer, "CHUNK", 2 * 24**2 + 1)
    monkeypatch.setattr(earth_mover, "CHUNK", 2 * 24**2 + 1)
    pieces = (
        [make()(a, b) for make in (ChamferCost, EarthMoverCost)],
        [make()(b, b) for make in (ChamferCost, EarthMoverCost)],
    )
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [ChamferCost, EarthMoverCost])
def test_what_are_no_clouds_is_refused(make: type[Cost]):
    a, _ = two()
    for wrong in (Sample(torch.zeros(4, 3)), Sample(torch.zeros(4, 2, 24))):
        with pytest.raises(FlowportError, match="compares clouds"):
            make()(a, wrong)
    with pytest.raises(FlowportError, match="of one size"):
        EarthMoverCost()(a, Sample(a.x[:, :, :9]))
