"""Grids run from exactly 0 to exactly 1, and where they should be dense they are."""

import pytest
import torch

from flowport.errors import FlowportError
from flowport.path import BrownianBridge, FunctionsPath, LinearPath, TrigonometricPath, VariancePreservingPath
from flowport.sampling.grid import LogSNRGrid, PowerGrid, UniformGrid
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
    with pytest.raises(FlowportError, match="at least 1 step"):
        make(steps=0)


def test_uniform_and_power_are_their_formulas():
    torch.testing.assert_close(UniformGrid(4).times(LinearPath()), torch.tensor([0, 0.25, 0.5, 0.75, 1]).double())
    torch.testing.assert_close(PowerGrid(4, 2).times(LinearPath()), torch.tensor([0, 7, 12, 15, 16]).double() / 16)
    late, early = PowerGrid(10, 2).times(LinearPath()).diff(), PowerGrid(10, 0.5).times(LinearPath()).diff()
    assert late[0] > late[-1] and early[0] < early[-1]
    with pytest.raises(FlowportError, match="power > 0"):
        PowerGrid(4, 0)


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath(), BrownianBridge(), VariancePreservingPath()])
def test_log_snr_steps_are_equal_in_log_snr(path):
    inner = LogSNRGrid(12).times(path)[1:-1]
    c = path.coefficients(inner)
    noise = c.alpha if c.gamma is None else c.gamma
    steps = (2 * (c.beta.log() - noise.log())).diff()
    torch.testing.assert_close(steps, steps.mean().expand(10), rtol=2e-3, atol=0)


def test_log_snr_of_the_straight_path_is_a_logistic_curve():
    """λ = 2 log(t/(1 − t)), from margin to 1 − margin."""
    u = torch.linspace(-1, 1, 9, dtype=torch.float64)[1:-1]
    edge = torch.logit(torch.tensor(0.99, dtype=torch.float64))
    torch.testing.assert_close(LogSNRGrid(8).times(LinearPath())[1:-1], torch.sigmoid(edge * u), rtol=1e-4, atol=0)


def test_log_snr_is_refused_where_the_ratio_does_not_increase():
    flat = FunctionsPath(lambda t: 1 + 0 * t, lambda t: 1 + 0 * t)
    with pytest.raises(FlowportError, match="grid=uniform"):
        LogSNRGrid().times(flat)
