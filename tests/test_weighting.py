"""Weights over time are their formulas."""

import pytest
import torch

from flowport.errors import Refusal
from flowport.path import BrownianBridge, Linear, Trigonometric
from flowport.weighting import SignalToNoise, Uniform
from tests.zoo import PATHS, WEIGHTINGS, named

T = torch.linspace(0, 1, 21, dtype=torch.float64)


def test_uniform_is_one():
    assert Uniform()(T, Linear()) is None


@pytest.mark.parametrize("limit", [0.5, 5.0])
def test_signal_to_noise_is_limited_at_its_limit(limit):
    inner = T[1:-1]
    for path, ratio in (
        (Linear(), inner**2 / (1 - inner) ** 2),
        (Trigonometric(), torch.tan(torch.pi / 2 * inner) ** 2),
        (BrownianBridge(0.5), inner / (0.25 * (1 - inner))),
        (Linear(noise=0.5), inner**2 / 0.25),
    ):
        found = SignalToNoise(limit)(inner, path)
        torch.testing.assert_close(found, ratio.clamp_max(limit))


@pytest.mark.parametrize("make", **named(WEIGHTINGS))
@pytest.mark.parametrize("path", **named(PATHS))
def test_weights_are_finite_and_not_negative_on_the_whole_interval(path, make):
    t = path().clamp(T.float())
    w = make()(t, path())
    w = torch.ones_like(t) if w is None else w
    assert w.shape == t.shape and w.dtype == t.dtype and bool((w.isfinite() & (w >= 0)).all()) and bool((w > 0).any())


def test_limit_must_be_positive():
    with pytest.raises(Refusal, match="limit > 0"):
        SignalToNoise(0)
