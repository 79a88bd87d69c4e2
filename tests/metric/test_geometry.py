"""Geometry of data: known intrinsic dimensions, isometric copies, and numbers that are kept."""

import pytest
import torch

from flowport.errors import FlowportError
from flowport.metric import Geometry, gromov_wasserstein, two_nn_dimension


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_dimension_of_a_turned_cube_is_found_within_its_error(dimension):
    draw = torch.Generator().manual_seed(dimension)
    frame = torch.linalg.qr(torch.randn(12, 12, generator=draw, dtype=torch.float64)).Q[:dimension]
    found = float(two_nn_dimension(torch.rand(2000, dimension, generator=draw, dtype=torch.float64) @ frame))
    bias = 0.06 * dimension  # of the cube's faces, where neighbours are missing
    assert abs(found - dimension) < 3 * dimension / 2000**0.5 + (bias if dimension > 2 else 0)


def test_the_dimension_does_not_depend_on_scale_and_copies():
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = two_nn_dimension(x)
    torch.testing.assert_close(two_nn_dimension(1e-3 * x), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(two_nn_dimension(torch.cat([x, x[:50]])), want)
    with pytest.raises(FlowportError, match="3 distinct points"):
        two_nn_dimension(x[:1].expand(9, 3))


def test_an_isometric_copy_in_another_space_has_distance_0_and_another_set_has_not():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(60, 3, generator=draw, dtype=torch.float64)
    frame = torch.linalg.qr(torch.randn(7, 7, generator=draw, dtype=torch.float64)).Q[:3]
    copy = (x @ frame + 5)[torch.randperm(60, generator=draw)]
    scale = float(torch.pdist(x).square().mean().sqrt())
    assert float(gromov_wasserstein(x, copy)) < 1e-3 * scale
    assert float(gromov_wasserstein(x, 2 * copy)) > 0.3 * scale


def test_two_pairs_of_points_have_the_distance_of_their_lengths():
    """Two points at distance a and two at b: every π with uniform marginals costs (a − b)²/2 or more."""
    x, y = torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert float(gromov_wasserstein(x, y)) == pytest.approx((2.0**2 / 2) ** 0.5, rel=1e-6)


def test_numbers_of_the_data_are_kept_and_do_not_depend_on_the_order(monkeypatch, tmp_path):
    from tests.metric.test_states import outcome_of

    whole = outcome_of()

    def numbers(outcome):
        metric = Geometry(matched=20)
        metric.update(outcome)
        return {name: float(value) for name, value in metric.compute().items()}

    monkeypatch.setenv("FLOWPORT_CACHE", str(tmp_path))
    want = numbers(whole)
    monkeypatch.setattr("flowport.metric.geometry.gromov_wasserstein", None)
    order = torch.randperm(len(whole.source), generator=torch.Generator().manual_seed(0))
    assert numbers(outcome_of(source=whole.source[order])) == want
