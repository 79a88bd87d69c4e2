"""Statistics of weighted paths."""

import torch

from flowport.capabilities import SourceIsNoise
from flowport.finetuning.path_weights import largest_gap
from flowport.path import VarianceExplodingPath, VariancePreservingPath


def test_a_coordinate_that_does_not_vary_has_no_gap():
    spread = torch.tensor([1e-30, 1e-9, 2.0, 0.5], dtype=torch.float64)
    difference = torch.tensor([1e-17, 1e-8, 1.0, -0.5], dtype=torch.float64)
    assert float(largest_gap(difference, spread)) == 1.0
    assert float(largest_gap(1e-20 * difference, 1e-20 * spread)) == 1.0
    assert float(largest_gap(torch.zeros(2), torch.zeros(2))) == 0.0


def test_the_correlation_of_the_start_with_the_data_is_what_the_docstring_says():
    for path, wanted in ((VariancePreservingPath(), 0.0066), (VarianceExplodingPath(), 0.05)):
        start = torch.zeros(1, dtype=torch.float64)
        alpha, _ = SourceIsNoise().amplitude(path.coefficients(start))
        beta = path.beta(start)
        assert abs(float(beta / (alpha**2 + beta**2).sqrt()) - wanted) < 1e-4
