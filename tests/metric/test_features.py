"""Fréchet and kernel distances against closed forms."""

import math

import pytest
import torch

from flowport.errors import FlowportError
from flowport.metric import frechet_distance, kernel_distance
from tests.metric.outcomes import draw, exact_gaussian

F64 = torch.float64


def symmetric_root(s: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(s)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def test_frechet_distance_of_two_gaussians():
    a, b = draw(4, 4, 7), draw(4, 4, 8)
    mx, my = torch.arange(4, dtype=F64), torch.tensor([1.0, 0, 2, 5], dtype=F64)
    x, y = exact_gaussian(50, mx, a, 0), exact_gaussian(30, my, b, 1)
    sx, sy = a @ a.T, b @ b.T
    root = symmetric_root(sx)
    want = (mx - my).square().sum() + torch.trace(sx + sy - 2 * symmetric_root(root @ sy @ root))
    torch.testing.assert_close(frechet_distance(x, y), want, rtol=1e-9, atol=0)
    torch.testing.assert_close(frechet_distance(y, x), want, rtol=1e-9, atol=0)


def test_frechet_distance_of_commuting_gaussians_is_the_sum_of_squares():
    mean = torch.tensor([1.0, 0, -2], dtype=F64)
    x = exact_gaussian(20, torch.zeros(3, dtype=F64), torch.diag(torch.tensor([1.0, 2, 3], dtype=F64)), 0)
    y = exact_gaussian(25, mean, torch.diag(torch.tensor([0.7, 2, 1], dtype=F64)), 1)
    assert float(frechet_distance(x, y)) == pytest.approx(5 + 0.3**2 + 0 + 2**2, rel=1e-10)


@pytest.mark.parametrize(("n", "f"), [(40, 6), (5, 64)])
def test_frechet_distance_of_a_sample_to_itself_and_to_its_shift(n: int, f: int):
    x = draw(n, f, 0)  # 5 points in 64 dimensions: covariances of rank 4
    assert float(frechet_distance(x, x)) == pytest.approx(0, abs=1e-10)
    assert float(frechet_distance(x, x + 0.5)) == pytest.approx(0.25 * f, rel=1e-10)
    assert float(frechet_distance(x, 3 * (x - x.mean(0)) + x.mean(0))) == pytest.approx(4 * float(x.var(0).sum()))


def test_frechet_distance_needs_a_covariance():
    with pytest.raises(FlowportError, match="2 points"):
        frechet_distance(draw(1, 3, 0), draw(5, 3, 1))


def test_kernel_distance_by_hand():
    x, y = torch.tensor([[1.0, 0], [1.0, 0]]).repeat(2, 1), torch.tensor([[0.0, 2], [0.0, 2]]).repeat(2, 1)
    value, error = kernel_distance(x, y, 3, 1000, torch.Generator().manual_seed(0))
    assert float(value) == pytest.approx((1 / 2 + 1) ** 3 + (4 / 2 + 1) ** 3 - 2 * 1)  # F = 2, all subsets alike
    assert float(error) == 0.0


def test_kernel_distance_is_zero_on_average_and_its_error_covers_it():
    def one(seed: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = draw(60, 4, 2 * seed) + shift, draw(60, 4, 2 * seed + 1)
        return kernel_distance(x, y, 20, 12, torch.Generator().manual_seed(seed))

    seeds = 60
    value, error = (torch.stack(v) for v in zip(*(one(s, 0.0) for s in range(seeds)), strict=True))
    assert abs(float(value.mean())) < 3 * float(value.std()) / math.sqrt(seeds)
    assert int((value.abs() < 2 * error).sum()) > 0.9 * seeds
    # for two laws the printed error is the spread over fresh data, within a third
    value, error = (torch.stack(v) for v in zip(*(one(s, 0.5) for s in range(seeds)), strict=True))
    assert 0.67 < float(error.mean() / value.std()) < 1.5


def test_kernel_distance_does_not_depend_on_the_number_of_points_but_frechet_does():
    small = [draw(40, 8, s) for s in range(40)]
    frechet = sum(float(frechet_distance(a, b)) for a, b in zip(small[::2], small[1::2], strict=True)) / 20
    assert frechet > 3 * float(frechet_distance(draw(400, 8, 100), draw(400, 8, 101)))


def test_kernel_distance_needs_subsets():
    with pytest.raises(FlowportError, match="2 subsets of 2 points"):
        kernel_distance(draw(3, 2, 0), draw(50, 2, 1), 10, 100, torch.Generator())
