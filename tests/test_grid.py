"""Grids run from exactly 0 to exactly 1, and where they should be dense they are."""

import pytest
import torch

from flowport.errors import Refusal
from flowport.grid import LogSNR, Power, Uniform
from flowport.path import BrownianBridge, Functions, Linear, Trigonometric, VariancePreserving
from tests.zoo import GRIDS, PATHS, named


@pytest.mark.parametrize("path", **named(PATHS))
@pytest.mark.parametrize("make", **named(GRIDS))
def test_times_ascend_from_zero_to_one(make, path):
    for steps in (1, 2, 17):
        times = make(steps=steps).times(path())
        assert times.shape == (steps + 1,) and times.dtype == torch.float64
        assert times[0] == 0 and times[-1] == 1 and bool((times.diff() > 0).all())


@pytest.mark.parametrize("make", **named(GRIDS))
def test_no_steps_are_refused(make):
    with pytest.raises(Refusal, match="at least 1 step"):
        make(steps=0)


def test_uniform_and_power_are_their_formulas():
    torch.testing.assert_close(Uniform(4).times(Linear()), torch.tensor([0, 0.25, 0.5, 0.75, 1]).double())
    torch.testing.assert_close(Power(4, 2).times(Linear()), torch.tensor([0, 7, 12, 15, 16]).double() / 16)
    late, early = Power(10, 2).times(Linear()).diff(), Power(10, 0.5).times(Linear()).diff()
    assert late[0] > late[-1] and early[0] < early[-1]
    with pytest.raises(Refusal, match="power > 0"):
        Power(4, 0)


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), BrownianBridge(), VariancePreserving()])
def test_log_snr_steps_are_equal_in_log_snr(path):
    inner = LogSNR(12).times(path)[1:-1]
    c = path.coefficients(inner)
    noise = c.alpha if c.gamma is None else c.gamma
    steps = (2 * (c.beta.log() - noise.log())).diff()
    torch.testing.assert_close(steps, steps.mean().expand(10), rtol=2e-3, atol=0)


def test_log_snr_of_the_straight_path_is_a_logistic_curve():
    """λ = 2 log(t/(1 − t)), from margin to 1 − margin."""
    u = torch.linspace(-1, 1, 9, dtype=torch.float64)[1:-1]
    edge = torch.logit(torch.tensor(0.99, dtype=torch.float64))
    torch.testing.assert_close(LogSNR(8).times(Linear())[1:-1], torch.sigmoid(edge * u), rtol=1e-4, atol=0)


def test_log_snr_is_refused_where_the_ratio_does_not_increase():
    flat = Functions(lambda t: 1 + 0 * t, lambda t: 1 + 0 * t)
    with pytest.raises(Refusal, match="grid=uniform"):
        LogSNR().times(flat)
