"""The shape of the largest weights is that of the law they are drawn from; ties and few weights are told apart."""

import math

import pytest
import torch

from flowport.finetuning.pareto_tail import largest_shape, pareto_shape


@pytest.mark.parametrize("k", [0.1, 0.5, 0.8, 1.5])
def test_weights_of_a_pareto_law_have_its_shape(k: float) -> None:
    """w = U^{−k} has the tail index 1/k; log weights may be shifted, and leading dimensions are apart."""
    generator = torch.Generator().manual_seed(0)
    log_w = -k * torch.rand(40, 2000, generator=generator, dtype=torch.float64).log()
    found = pareto_shape(log_w)
    assert float(found.mean()) == pytest.approx(k, abs=4 * float(found.std()) / 40**0.5 + 0.05)
    assert float(pareto_shape(log_w[3] - 700)) == pytest.approx(float(found[3]), rel=1e-6)


def test_bounded_weights_have_a_negative_shape() -> None:
    """Uniform ones that of the uniform law, −1."""
    w = torch.rand(40, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(pareto_shape(w.log()).mean()) == pytest.approx(-1, abs=0.1)


@pytest.mark.parametrize(("large", "shape"), [(0, -1.0), (3, math.inf), (400, -1.0)])
def test_ties_are_bounded_and_a_few_above_them_have_no_shape(large: int, shape: float) -> None:
    """Of 1000 weights 0, 3 or 400 are e² times the others: all of the tail tied, three above it, and tied again."""
    log_w = torch.zeros(1000)
    log_w[:large] = 2.0
    assert float(pareto_shape(log_w)) == shape
    log_w[:60] = 2.0
    assert large == 400 or float(pareto_shape(log_w)) < 0


def test_the_limit_of_a_shape_grows_with_the_number_of_weights() -> None:
    assert largest_shape(1000) == pytest.approx(2 / 3) and largest_shape(10**6) == 0.7
    with pytest.raises(ValueError, match="needs 100 weights, not 99"):
        pareto_shape(torch.zeros(99))
