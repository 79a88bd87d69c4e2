"""Errors of means over items are those of the closed form, and pairs lose what they share."""

import math

import pytest
import torch

from flowport.errors import FlowportError
from flowport.evaluation.bootstrap import estimate, numbered, paired_difference, resampled_means


def normal(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alone(n: int) -> list[str]:
    return [str(k) for k in range(n)]


def test_the_error_of_a_mean_is_s_over_the_root_of_n() -> None:
    x = 3 + 2 * normal(400, 0)
    found = estimate(x, alone(400))
    want = float(x.std()) / 20
    assert found.mean == pytest.approx(float(x.mean()), rel=1e-12)
    assert found.se == pytest.approx(want, rel=0.04)  # 4000 resamples: 1 %
    assert found.high - found.low == pytest.approx(2 * 1.966 * want, rel=0.06)


def test_the_error_of_five_items_is_not_that_of_their_biased_variance() -> None:
    """Resamples of n items have the variance (n − 1)/n s²/n: without the factor the error would be 11 % too small."""
    x = normal(5, 0)
    assert estimate(x, alone(5)).se == pytest.approx(float(x.std()) / 5**0.5, rel=0.04)


def test_two_independent_normals_differ_with_the_error_of_the_formula() -> None:
    x, y = 1 + normal(500, 1), 2 * normal(500, 2)
    found = paired_difference(x, y, alone(500))
    assert found.se == pytest.approx(math.sqrt((1 + 4) / 500), rel=0.1)
    assert found.low == pytest.approx(1.188 - 1.965 * found.se, abs=0.01) and found.differs


def test_identical_settings_differ_by_exactly_nothing() -> None:
    x = normal(50, 3)
    found = paired_difference(x, x.clone(), alone(50))
    assert (found.mean, found.se, found.low, found.high) == (0, 0, 0, 0) and not found.differs


def test_what_two_settings_share_cancels() -> None:
    """var(x − y) = 2 σ² (1 − ρ): at ρ = 0.99 the error is a tenth of that without correlation."""
    shared = normal(500, 4)
    x, y = (shared + 0.1 * normal(500, seed) for seed in (5, 6))
    apart = paired_difference(x, y[torch.randperm(500, generator=torch.Generator().manual_seed(0))], alone(500))
    pair = paired_difference(x, y, alone(500))
    assert pair.se == pytest.approx(0.1 * math.sqrt(2 / 500), rel=0.1)
    assert pair.se < 0.15 * apart.se


def test_pieces_of_one_file_are_no_further_items() -> None:
    """Every value four times: with groups the error is that of a quarter of the items, without it is half of that."""
    x = normal(100, 7)
    four, files = x.repeat_interleave(4), [str(k) for k in range(100) for _ in range(4)]
    assert estimate(four, files).se == pytest.approx(float(x.std()) / 10, rel=0.04)
    assert estimate(four, alone(400)).se == pytest.approx(float(x.std()) / 20, rel=0.04)
    assert estimate(four, files).groups == 100


def test_groups_of_unequal_size_weigh_by_their_items() -> None:
    values, group = torch.tensor([[1.0], [1.0], [1.0], [5.0]], dtype=torch.float64), numbered(["a", "a", "a", "b"])
    means = resampled_means(values, group, 4000, torch.Generator().manual_seed(0))[:, 0]
    assert {round(float(m), 6) for m in means.unique()} == {1.0, 2.0, 5.0}  # aa, ab, bb
    assert float((means == 2).double().mean()) == pytest.approx(0.5, abs=0.03)


def test_intervals_of_few_items_hold_the_mean_as_often_as_they_say() -> None:
    """Student's factor: 5 normal items. Percentiles alone would hold it 82 times of 100."""
    held = 0
    for seed in range(300):
        found = estimate(normal(5, 100 + seed), alone(5))
        held += found.low < 0 < found.high
    assert 0.91 <= held / 300 <= 0.99


def test_a_single_file_has_no_error_and_no_item_no_mean() -> None:
    found = estimate(normal(3, 0), ["a", "a", "a"])
    assert math.isnan(found.se) and math.isnan(found.low) and not found.differs
    with pytest.raises(FlowportError, match="needs items"):
        estimate(torch.empty(0), [])
