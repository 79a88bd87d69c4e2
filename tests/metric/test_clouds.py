"""Distances between clouds by closed forms, and what a perfect and a wrong set of clouds score."""

import pytest
import torch

from flowport.cost import ChamferCost, EarthMoverCost
from flowport.cost.chamfer import chamfer
from flowport.distribution import Box, Digits, Torus
from flowport.errors import FlowportError
from flowport.metric import CloudDistance, coverage, nearest_neighbour_accuracy
from flowport.modality import Cloud
from flowport.types import Sample


def of(solid, n, seed):
    return solid(points=64).sample(n, torch.Generator().manual_seed(seed)).x


def test_chamfer_by_hand():
    a = torch.tensor([[[0.0, 1.0], [0, 0], [0, 0]]])  # points (0,0,0) and (1,0,0)
    b = torch.tensor([[[0.0, 3.0, 0.0], [0, 0, 2], [0, 0, 0]]])  # (0,0,0), (3,0,0), (0,2,0)
    assert float(chamfer(a, b)) == pytest.approx((0 + 1) / 2 + (0 + 4 + 4) / 3)
    x, y = of(Torus, 5, 0), of(Box, 7, 1)
    torch.testing.assert_close(chamfer(x, y), chamfer(y, x).T)
    assert float(chamfer(x, x).diagonal().abs().max()) < 1e-5
    torch.testing.assert_close(chamfer(3 * x, 3 * y), 9 * chamfer(x, y))


def test_accuracy_and_coverage_by_hand():
    near = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    assert float(nearest_neighbour_accuracy(near, near + 10, near)) == 1
    assert float(nearest_neighbour_accuracy(near, near * 0 + 0.1, near)) == 0
    assert float(coverage(torch.tensor([[1.0, 2.0, 3.0], [0.5, 5.0, 4.0]]))) == pytest.approx(1 / 3)


def test_draws_of_one_law_score_one_half_and_of_another_one():
    metric = CloudDistance()
    same = metric.distance(of(Torus, 150, 0), of(Torus, 150, 1), torch.Generator())
    other = metric.distance(of(Box, 150, 2), of(Torus, 150, 3), torch.Generator())
    assert abs(float(same["_nna"]) - 0.5) < 0.15 and float(other["_nna"]) > 0.9
    assert float(same["_coverage"]) > float(other["_coverage"]) and float(same["_mmd"]) < float(other["_mmd"])
    with pytest.raises(FlowportError, match="is for clouds"):
        metric.check(Torus(), Digits())


def test_cloud_is_exact_both_ways_and_drawn(tmp_path):
    raw = torch.randn(5, 20, 3)
    cloud = Cloud()
    assert torch.equal(cloud.decode(cloud.encode(raw, None)), raw)
    picture = cloud.render({"source": of(Torus, 3, 0), "end": of(Box, 3, 0)}, str(tmp_path / "c.png"))
    assert picture.dtype == torch.uint8 and picture.shape[0] == 3
    with pytest.raises(FlowportError, match="takes clouds"):
        cloud.encode(raw[0], None)


@pytest.mark.parametrize("distance", [ChamferCost(), EarthMoverCost()])
def test_the_distance_is_a_part_and_halves_of_one_set_cannot_be_told_apart(distance):
    metric = CloudDistance(distance, name="halves")
    x = Torus(points=24).sample(120, torch.Generator().manual_seed(5)).x
    found = metric.distance(x[:60], x[60:], torch.Generator())
    assert abs(float(found["_nna"]) - 0.5) < 3 * 0.5 / 120**0.5
    assert float(found["_mmd"]) == float(distance(Sample(x[:60]), Sample(x[60:])).amin(0).mean())
    assert float(metric.distance(x[:60], x[60:] + 3, torch.Generator())["_nna"]) == 1
