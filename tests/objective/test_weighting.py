"""Weights over time are their formulas."""

import pytest
import torch

from flowport.errors import FlowportError
from flowport.objective.weighting import DDPMWeighting, EDMWeighting, SignalToNoiseWeighting, UniformWeighting
from flowport.path import BrownianBridge, LinearPath, TrigonometricPath
from flowport.prediction import VelocityPrediction
from tests.laws.oracles import Composition, SourceIsNoise, UnconditionedBridge

T = torch.linspace(0, 1, 21, dtype=torch.float64)


def weigh(weighting, t, path):
    """The weights of uniform times on the path."""
    c = Composition(path, UnconditionedBridge() if path.bridge else SourceIsNoise(), VelocityPrediction())
    return weighting(t, c.field(c.joint("gaussian")), torch.ones_like(t))


def test_uniform_is_one():
    assert weigh(UniformWeighting(), T, LinearPath()) is None


@pytest.mark.parametrize("limit", [0.5, 5.0])
def test_signal_to_noise_is_limited_at_its_limit(limit):
    inner = T[1:-1]
    for path, ratio in (
        (LinearPath(), inner**2 / (1 - inner) ** 2),
        (TrigonometricPath(), torch.tan(torch.pi / 2 * inner) ** 2),
        (BrownianBridge(0.5), inner / (0.25 * (1 - inner))),
        (LinearPath(noise=0.5), inner**2 / 0.25),
    ):
        found = weigh(SignalToNoiseWeighting(limit), inner, path)
        torch.testing.assert_close(found, ratio.clamp_max(limit))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SignalToNoiseWeighting(0), "limit > 0"),
        (lambda: EDMWeighting(scale=0), "scale > 0"),
        (lambda: EDMWeighting(data_deviation=-1), "data_deviation > 0"),
        (lambda: DDPMWeighting(limit=0), "limit > 0"),
        (lambda: DDPMWeighting(rate_min=2, rate_max=1), "rate_min < rate_max"),
    ],
)
def test_impossible_parameters_are_refused(make, says):
    with pytest.raises(FlowportError, match=says):
        make()
