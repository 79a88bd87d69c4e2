"""Statistics of weighted paths."""

import torch

from flowport.capabilities import SourceIsNoise
from flowport.finetuning.path_weights import halves, largest_gap
from flowport.path import VarianceExplodingPath, VariancePreservingPath


def gap(difference: list[float], spread: list[float]) -> float:
    both = torch.tensor([difference, difference], dtype=torch.float64)
    return float(largest_gap(both, torch.ones_like(both), torch.tensor(spread, dtype=torch.float64))[0])


def test_a_coordinate_that_does_not_vary_has_no_gap():
    spread, difference = [1e-30, 1e-9, 2.0, 0.5], [1e-17, 1e-8, 1.0, -0.9]
    assert gap(difference, spread) == 0.5
    assert gap([1e-20 * d for d in difference], [1e-20 * s for s in spread]) == 0.5
    assert gap([0.0, 0.0], [0.0, 0.0]) == 0.0


def test_equal_means_have_no_gap_in_however_many_coordinates():
    """The largest of 500 differences of noise would be about 3 errors; a real one of 1 keeps its size and sign."""
    rows, found = torch.randn(200, 400, 500, generator=torch.Generator().manual_seed(0)), []
    for shift in (0.0, -1.0):
        rows[:, :, 7] += shift
        numbers = [[float(v) for v in largest_gap(*halves(each), torch.ones(500))] for each in rows]
        found.append(torch.tensor(numbers))
    (none, error), (one, other) = (numbers.T for numbers in found)
    assert abs(float(none.mean())) < 3 * 0.05 / 200**0.5 and abs(float(error.mean()) - 0.05) < 0.002
    assert (
        abs(float(one.mean()) - 1) < 3 * 0.05 / 200**0.5
        and ((one - 1).abs() <= 2 * error[: len(one)]).float().mean() > 0.9
    )


def test_the_correlation_of_the_start_with_the_data_is_what_the_docstring_says():
    for path, wanted in ((VariancePreservingPath(), 0.0066), (VarianceExplodingPath(), 0.05)):
        start = torch.zeros(1, dtype=torch.float64)
        alpha, _ = SourceIsNoise().amplitude(path.coefficients(start))
        beta = path.beta(start)
        assert abs(float(beta / (alpha**2 + beta**2).sqrt()) - wanted) < 1e-4
