"""Diffusion form and flow form: closed forms, and round trips."""

import pytest
import torch

from flowport.capabilities import SourceIsNoise
from flowport.errors import FlowportError
from flowport.path import (
    LinearPath,
    PolynomialPath,
    SmoothBridge,
    TrigonometricPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from flowport.sampling.diffusion_form import DiffusionForm, diffusion_form, flow_form
from flowport.sampling.volatility import ConstantVolatility, MemorylessVolatility, SineVolatility, ZeroVolatility
from flowport.types import Condition
from tests.laws.oracles import F64, Composition, VelocityPrediction, points

T = torch.linspace(0.2, 0.95, 16, dtype=F64)
ROLE = SourceIsNoise()
PATHS = [LinearPath(), TrigonometricPath(), PolynomialPath(), VariancePreservingPath(), VarianceExplodingPath()]
close = torch.testing.assert_close


def test_variance_preserving_and_exploding_have_their_known_drift_and_diffusion():
    rate = 0.1 + 19.9 * (1 - T)
    form = diffusion_form(VariancePreservingPath(), ZeroVolatility(), ROLE)
    close(form.drift(T), -rate / 2, rtol=1e-9, atol=0)
    close(form.diffusion(T), rate.sqrt(), rtol=1e-9, atol=0)
    form = diffusion_form(VarianceExplodingPath(20.0), ZeroVolatility(), ROLE)
    close(form.drift(T), 0 * T)
    close(form.diffusion(T), (2 * 400 * (1 - T)).sqrt(), rtol=1e-9, atol=0)  # g² = d(ς²)/du


def test_known_drift_and_diffusion_give_their_paths():
    rate = lambda t: 0.1 + 19.9 * (1 - t)
    given = DiffusionForm(lambda t: -rate(t) / 2, lambda t: rate(t).sqrt(), torch.ones_like)
    for form, path in (
        (given, VariancePreservingPath()),
        (
            DiffusionForm(torch.zeros_like, lambda t: 20 * (2 * (1 - t)).sqrt(), torch.ones_like),
            VarianceExplodingPath(),
        ),
    ):
        found, volatility = flow_form(form)
        for name, value in vars(found.coefficients(T)).items():
            wanted = getattr(path.coefficients(T), name)
            assert (value is None) == (wanted is None)
            if value is not None:
                close(value, wanted, rtol=1e-9, atol=1e-9)
        close(volatility(T, found, ROLE), MemorylessVolatility(1e-3)(T, path, ROLE), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "volatility", [ZeroVolatility(), ConstantVolatility(0.7), SineVolatility(), MemorylessVolatility()]
)
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_flow_to_diffusion_to_flow_and_on_to_diffusion(path, volatility):
    form = diffusion_form(path, volatility, ROLE)
    found, again = flow_form(form)
    for name in ("alpha", "beta", "dalpha", "dbeta"):
        close(getattr(found.coefficients(T), name), getattr(path.coefficients(T), name), rtol=1e-9, atol=1e-9)
    close(again(T, found, ROLE), volatility(T, path, ROLE), rtol=1e-9, atol=1e-9)
    back = diffusion_form(found, again, ROLE)
    for rate, own in zip(vars(back).values(), vars(form).values(), strict=True):
        close(rate(T), own(T), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_velocity_is_half_way_between_drift_and_reverse_drift(path):
    c = Composition(path, ROLE, VelocityPrediction())
    x, _ = points(16)
    form = diffusion_form(path, ZeroVolatility(), ROLE)
    velocity, score = c.field(c.joint("mixture")).velocity_and_score(x, T, Condition())
    f, g = form.drift(T)[:, None], form.diffusion(T)[:, None]
    close(velocity, -f * x + g**2 / 2 * score, rtol=1e-9, atol=1e-9)


def test_a_bridge_has_no_diffusion_form():
    with pytest.raises(FlowportError, match="no diffusion form"):
        diffusion_form(SmoothBridge(), ZeroVolatility(), ROLE)
