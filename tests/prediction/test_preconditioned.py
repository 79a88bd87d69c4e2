"""Preconditioning: unit size of input and output at every time, and where it is the default."""

import pytest
import torch

from flowport.conditioning import Unconditional
from flowport.coupling import IndependentCoupling
from flowport.distribution import EightGaussians, Gaussian, Moons
from flowport.errors import FlowportError
from flowport.path import BrownianBridge, LinearPath, VarianceExplodingPath, VariancePreservingPath
from flowport.prediction import EDMPrediction, ScorePrediction, VelocityPrediction, VPrediction
from flowport.training.compose import compose
from flowport.types import Condition, Pair, Sample
from tests.zoo import PATHS, named

D, S = 3.0, 0.5


def drawn(path, t, n=50_000):
    g = torch.Generator().manual_seed(0)
    x1, x0, z = torch.randn(3, n, 1, generator=g, dtype=torch.float64)
    time = torch.full((n,), t, dtype=torch.float64)
    return path.sample(Pair(Sample(S * x0), Sample(D * x1)), time, z if path.bridge else None)


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("make", **named([item for item in PATHS if not item[1]().bridge]))
def test_input_and_target_of_the_network_have_the_datas_deviation_and_are_uncorrelated(make, t):
    path, prediction = make(), EDMPrediction(D, S)
    sample = drawn(path, t)
    scale = prediction.input_scale(path, sample.t)[:, None]
    seen, target = scale * sample.x, prediction.target(path, sample)
    assert float(seen.std()) == pytest.approx(D, rel=0.02)
    assert float(target.std()) == pytest.approx(D, rel=0.02)
    assert float((seen * target).mean()) / D**2 == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("make", **named(PATHS))
def test_the_law_of_times_is_one_of_the_networks_time(make):
    path, prediction = make(), EDMPrediction(D, S)
    u = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort().values
    t, slope = prediction.times(path, u)
    seen = prediction.network_time(path, t)
    low, high = prediction.network_time(path, prediction.clamp(path, torch.tensor([0.0, 1.0], dtype=torch.float64)))
    torch.testing.assert_close(seen, low + (high - low) * u, atol=2e-3, rtol=0)
    measured = (t[2:] - t[:-2]) / (u[2:] - u[:-2])
    inside = (u[2:] - u[:-2] > 1e-4) & (u[1:-1] > 0.05) & (u[1:-1] < 0.95)
    torch.testing.assert_close(measured[inside], slope[1:-1][inside], rtol=0.1, atol=1e-3)


def test_on_a_linear_path_of_equal_deviations_the_network_sees_the_time_itself():
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    torch.testing.assert_close(EDMPrediction(2.0, 2.0).network_time(LinearPath(), t), t)
    torch.testing.assert_close(EDMPrediction(2.0, 2.0).times(LinearPath(), t)[0], 1e-3 + (1 - 2e-3) * t)


def test_v_prediction_is_a_rotation_of_a_variance_preserving_path():
    path, v = VariancePreservingPath(), VPrediction()
    sample = drawn(path, 0.6, 5)
    c = path.coefficients(sample.t).over(sample.x)
    target = v.target(path, sample)
    torch.testing.assert_close(c.beta * sample.x - c.alpha * target, sample.x1)
    torch.testing.assert_close(c.alpha * sample.x + c.beta * target, sample.x0)


@pytest.mark.parametrize("prediction", [VPrediction(), EDMPrediction(1.0, 1.0)])
def test_a_blind_bridge_is_refused(prediction):
    x = torch.zeros(3, 2)
    with pytest.raises(FlowportError, match="does not see its start"):
        prediction.flow_state(x, x, BrownianBridge().coefficients(torch.full((3,), 0.5)), None)
    with pytest.raises(FlowportError, match=r"prediction=(v|edm) is undefined on a bridge"):
        compose(Gaussian(), Moons(), path=BrownianBridge(), prediction=prediction)


def test_deviations_are_measured_from_the_data():
    prediction = EDMPrediction().fitted(Gaussian(covariance=0.25), EightGaussians(), False)
    assert prediction.noise_deviation == pytest.approx(0.5, rel=0.05)
    assert prediction.data_deviation == pytest.approx(
        float(EightGaussians().sample(9999, torch.Generator()).x.std()), rel=0.05
    )
    assert EDMPrediction(2.0).fitted(Gaussian(), Moons(), True).data_deviation == 2.0
    assert EDMPrediction(2.0).fitted(Gaussian(), Moons(), True).noise_deviation == 1.0
    again = EDMPrediction().fitted(Gaussian(covariance=0.25), EightGaussians(), False)
    assert vars(again) == vars(prediction)
    with pytest.raises(FlowportError, match="no data are at hand"):
        EDMPrediction().weights(torch.ones(1), torch.ones(1))


@pytest.mark.parametrize(
    ("key", "value"), [("data_deviation", 0.0), ("noise_deviation", -1.0), ("noise_deviation", 0.0)]
)
def test_deviations_out_of_range_are_refused(key, value):
    with pytest.raises(FlowportError, match=rf"prediction\.{key}={value} must be a positive number"):
        EDMPrediction(**{key: value})


def test_a_path_whose_points_grow_gets_it_by_default_and_warns_of_others(caplog):
    for path, kind in ((LinearPath(), VelocityPrediction), (VariancePreservingPath(), VelocityPrediction)):
        assert type(compose(Gaussian(), Moons(), path=path)[0].field.prediction) is kind
    flow, _ = compose(Gaussian(), Moons(), path=VarianceExplodingPath())
    assert type(flow.field.prediction) is EDMPrediction
    assert "grow" not in caplog.text
    for prediction in (VelocityPrediction(), ScorePrediction()):
        compose(
            Gaussian(), Moons(), path=VarianceExplodingPath(), coupling=IndependentCoupling(), prediction=prediction
        )
    assert caplog.text.count("grow to 20 times the size of the data") == 2


def test_the_network_sees_scaled_points_and_the_condition_unscaled():
    flow, _ = compose(Gaussian(), Moons(), path=VarianceExplodingPath(), conditioning=Unconditional())
    seen = []
    flow.field.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    t = torch.tensor([0.0, 0.5])
    x = torch.tensor([[20.0, 0.0], [10.0, 0.0]])
    flow.field.velocity(x, t, Condition())
    assert float(seen[0].abs().max()) < 4
    torch.testing.assert_close(
        seen[0], x * flow.field.prediction.input_scale(flow.field.path, t)[:, None], atol=1e-2, rtol=1e-2
    )
