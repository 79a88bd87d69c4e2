"""Distances between clouds against closed forms and brute force."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import energy_distance as energy_distance_on_the_line

from flowport.errors import FlowportError
from flowport.metric import energy_distance, mmd, sliced_wasserstein_2, wasserstein_2
from flowport.metric.discrepancy import median_distance
from tests.metric.outcomes import draw

SHIFT = torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64)  # of length 13


def directions(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_w2_of_a_shift_is_its_length():
    x = draw(150, 3, 0)
    assert float(wasserstein_2(x, x + SHIFT)) == pytest.approx(13.0, rel=1e-10)
    assert float(wasserstein_2(x, x)) == 0.0


def test_w2_solves_the_assignment_problem():
    x, y = draw(80, 3, 0), 2 * draw(80, 3, 1)
    cost = (x[:, None] - y[None]).square().sum(-1).numpy()
    assert float(wasserstein_2(x, y)) ** 2 == pytest.approx(cost[linear_sum_assignment(cost)].mean(), rel=1e-10)


def test_w2_on_the_line_matches_sorted_points_and_scales():
    x, y = draw(200, 1, 0), 1 + 0.7 * draw(200, 1, 1)
    want = (x.sort(dim=0).values - y.sort(dim=0).values).square().mean().sqrt()
    torch.testing.assert_close(wasserstein_2(x, y), want)
    torch.testing.assert_close(wasserstein_2(3 * x, 3 * y), 3 * want)
    torch.testing.assert_close(sliced_wasserstein_2(x, y, 3, directions()), want)


def test_w2_of_gaussian_quantiles_on_the_line():
    q = torch.special.ndtri((torch.arange(400, dtype=torch.float64) + 0.5) / 400)[:, None]
    assert float(wasserstein_2(q, 1 + 0.7 * q)) ** 2 == pytest.approx(1.09, abs=2e-3)  # (1 − 0)² + (1 − 0.7)²


def test_unequal_sides_equal_their_repetition():
    x, y = draw(20, 2, 0), draw(30, 2, 1)
    copies = x.repeat_interleave(3, dim=0), y.repeat_interleave(2, dim=0)
    torch.testing.assert_close(wasserstein_2(x, y), wasserstein_2(*copies))
    torch.testing.assert_close(energy_distance(x, y), energy_distance(*copies))
    sliced = [sliced_wasserstein_2(a, b, 16, directions()) for a, b in ((x, y), copies)]
    torch.testing.assert_close(*sliced)


def test_w2_keeps_near_points_in_many_dimensions_and_in_images():
    x = draw(12, 300, 0).reshape(12, 3, 10, 10) + 5000
    step = 1e-3 * torch.ones_like(x) / math.sqrt(300)
    assert float(wasserstein_2(x, x + step)) == pytest.approx(1e-3, rel=1e-4)


def test_sliced_w2_of_a_shift_and_its_bound():
    x, y = draw(50, 3, 0), 2 * draw(50, 3, 1)
    assert 0 < float(sliced_wasserstein_2(x, y, 64, directions())) < float(wasserstein_2(x, y))
    square = sliced_wasserstein_2(x, x + SHIFT, 20000, directions()) ** 2
    # E(θ·c)² = |c|²/3, of variance |c|⁴·4/45 on the sphere of R³; four standard errors
    assert float(square) == pytest.approx(169 / 3, abs=4 * 169 * math.sqrt(4 / 45 / 20000))


def test_energy_distance_on_the_line_matches_the_integral():
    x, y = draw(1500, 1, 0), 1 + 0.5 * draw(40, 1, 1)
    want = energy_distance_on_the_line(x[:, 0].numpy(), y[:, 0].numpy()) ** 2  # 2∫(F − G)²
    assert float(energy_distance(x, y)) == pytest.approx(want, rel=1e-9)


def test_energy_distance_of_two_points():
    x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    assert float(energy_distance(x, y)) == pytest.approx(10.0)
    assert float(energy_distance(x, x)) == 0.0


def test_mmd_by_hand():
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [4.0]])  # the median distance of y is 3
    k = lambda r: sum(math.exp(-((r / 3) ** 2) / (2 * h * h)) for h in (0.5, 2.0)) / 2
    want = k(2) + k(3) - 2 * (k(1) + k(4) + k(1) + k(2)) / 4
    assert float(mmd(x, y, (0.5, 2.0))) == pytest.approx(want, rel=1e-12)


def test_mmd_by_brute_force_across_row_blocks():
    x, y = draw(1100, 2, 0), draw(1030, 2, 1) + 0.3
    k = lambda a, b: torch.exp(-(torch.cdist(a, b) / median_distance(y)).square() / 2)
    own = lambda a: (k(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))
    torch.testing.assert_close(mmd(x, y, (1.0,)), own(x) + own(y) - 2 * k(x, y).mean())


def test_mmd_is_zero_on_average_for_one_law_and_not_for_two():
    seeds = range(200)
    same = torch.stack([mmd(draw(20, 2, 2 * s), draw(20, 2, 2 * s + 1)) for s in seeds])
    error = same.std() / math.sqrt(len(seeds))
    assert abs(float(same.mean())) < 3 * float(error)
    assert bool((same < 0).any())
    biased = same + 2 * (1 - 0.5) / 20  # about what counting i = j would add
    assert float(biased.mean()) > 10 * float(error)
    apart = torch.stack([mmd(1 + draw(20, 2, 2 * s), draw(20, 2, 2 * s + 1)) for s in range(20)])
    assert float(apart.mean()) > 10 * float(error)


def test_coinciding_targets_give_mmd_no_ruler():
    with pytest.raises(FlowportError, match="coincide"):
        mmd(draw(5, 2, 0), torch.ones(5, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_points_are_measured_in_float64(dtype: torch.dtype):
    x, y = (100 * draw(40, 8, seed, dtype) for seed in (0, 1))
    for distance in (
        wasserstein_2,
        energy_distance,
        mmd,
        lambda a, b: sliced_wasserstein_2(a, b, 8, directions()),
    ):
        assert distance(x, y).dtype == torch.float64
        torch.testing.assert_close(distance(x, y), distance(x.double(), y.double()), rtol=1e-12, atol=0)


def test_infinite_points_are_refused():
    x = draw(5, 2, 0)
    x[3, 1] = math.inf
    with pytest.raises(FlowportError, match="1 of 5 evaluated points"):
        wasserstein_2(x, draw(5, 2, 1))
