"""Single members of the family of paths; the laws over all of them are in tests/laws."""

import pytest
import torch

from flowport.errors import FlowportError
from flowport.path import (
    BrownianBridge,
    FunctionsPath,
    LinearPath,
    PolynomialPath,
    SmoothBridge,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from flowport.types import Pair, Sample
from tests.laws.oracles import points, tensor
from tests.zoo import PATHS, named


@pytest.mark.parametrize("make", **named(PATHS))
def test_a_sample_is_the_path_and_its_velocity_in_any_shape(make):
    path = make()
    x0, x1, z = torch.randn(3, 5, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    sample = path.sample(Pair(Sample(x0), Sample(x1)), t, z if path.bridge else None)
    h = 1e-5
    for k in range(5):

        def at(s, k=k):
            return path.alpha(s) * x0[k] + path.beta(s) * x1[k] + path.gamma(s) * z[k]

        torch.testing.assert_close(sample.x[k], at(t[k]))
        torch.testing.assert_close(sample.velocity[k], (at(t[k] + h) - at(t[k] - h)) / (2 * h), rtol=1e-6, atol=1e-6)
    assert sample.x0 is x0 and sample.x1 is x1 and (sample.z is None) == (not path.bridge)


def test_a_bridge_needs_its_noise():
    x0, x1 = points(2)
    with pytest.raises(AssertionError, match="noise z"):
        SmoothBridge().sample(Pair(Sample(x0), Sample(x1)), tensor(0.3, 0.6), None)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LinearPath(noise=-0.1), "noise ≥ 0"),
        (lambda: LinearPath(sigma_min=1.0), "sigma_min < 1"),
        (lambda: BrownianBridge(0.0), "use path=linear"),
        (lambda: SmoothBridge(-1.0), "use path=linear"),
        (lambda: VariancePreservingPath(rate_min=0.0), "rate_min"),
        (lambda: VariancePreservingPath(2.0, 1.0), "rate_min"),
        (lambda: VarianceExplodingPath(0.0), "scale > 0"),
        (lambda: PolynomialPath(0.5, 2.0), "at least 1"),
        (lambda: PolynomialPath(2.0, 0.5), "at least 1"),
    ],
)
def test_impossible_parameters_are_refused(make, says):
    with pytest.raises(FlowportError, match=says):
        make()


def test_linear_is_a_bridge_exactly_with_noise():
    assert LinearPath(noise=0.1).bridge and not LinearPath().bridge and not LinearPath(sigma_min=0.1).bridge


def test_functions_is_a_bridge_exactly_with_a_noise():
    straight = FunctionsPath(lambda t: 1 - t, lambda t: t)
    noisy = FunctionsPath(lambda t: 1 - t, lambda t: t, lambda t: 0.6 * torch.sqrt(t * (1 - t)), (1e-3, 0.999))
    t = tensor(0.2, 0.7)
    assert not straight.bridge and noisy.bridge and noisy.interval == (1e-3, 0.999)
    for own, known in zip(
        vars(straight.coefficients(t)).values(), vars(LinearPath().coefficients(t)).values(), strict=True
    ):
        assert (own is None and known is None) or torch.equal(own, known)
    for own, known in zip(
        vars(noisy.coefficients(t)).values(), vars(BrownianBridge().coefficients(t)).values(), strict=True
    ):
        torch.testing.assert_close(own, known)
