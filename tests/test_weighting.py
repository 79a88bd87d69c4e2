"""Weights over time are their formulas."""

import pytest
import torch

from flowport.errors import Refusal
from flowport.path import BrownianBridge, Linear, Trigonometric
from flowport.prediction import Velocity
from flowport.weighting import DDPM, EDM, SignalToNoise, Uniform
from tests.laws.oracles import BlindBridge, Composition, SourceIsNoise

T = torch.linspace(0, 1, 21, dtype=torch.float64)


def weigh(weighting, t, path):
    """The weights of uniform times on the path."""
    c = Composition(path, BlindBridge() if path.bridge else SourceIsNoise(), Velocity())
    return weighting(t, c.field(c.joint("gaussian")), torch.ones_like(t))


def test_uniform_is_one():
    assert weigh(Uniform(), T, Linear()) is None


@pytest.mark.parametrize("limit", [0.5, 5.0])
def test_signal_to_noise_is_limited_at_its_limit(limit):
    inner = T[1:-1]
    for path, ratio in (
        (Linear(), inner**2 / (1 - inner) ** 2),
        (Trigonometric(), torch.tan(torch.pi / 2 * inner) ** 2),
        (BrownianBridge(0.5), inner / (0.25 * (1 - inner))),
        (Linear(noise=0.5), inner**2 / 0.25),
    ):
        found = weigh(SignalToNoise(limit), inner, path)
        torch.testing.assert_close(found, ratio.clamp_max(limit))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SignalToNoise(0), "limit > 0"),
        (lambda: EDM(scale=0), "scale > 0"),
        (lambda: EDM(data_deviation=-1), "data_deviation > 0"),
        (lambda: DDPM(limit=0), "limit > 0"),
        (lambda: DDPM(rate_min=2, rate_max=1), "rate_min < rate_max"),
    ],
)
def test_impossible_parameters_are_refused(make, says):
    with pytest.raises(Refusal, match=says):
        make()
