"""α̇, β̇, γ̇ are the derivatives of α, β, γ, in every mode of autograd."""

import pytest
import torch

from flowport.path import (
    BrownianBridge,
    LinearPath,
    Path,
    PolynomialPath,
    SmoothBridge,
    TrigonometricPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from tests.zoo import PATHS, named

T = torch.linspace(0.03, 0.97, 41, dtype=torch.float64)
close = torch.testing.assert_close


@pytest.mark.parametrize("make", **named(PATHS))
def test_slopes_are_central_differences(make):
    path, h = make(), 1e-5
    c = path.coefficients(T)
    for weight, slope in ((path.alpha, c.dalpha), (path.beta, c.dbeta), (path.gamma, c.dgamma)):
        if slope is not None:
            close(slope, (weight(T + h) - weight(T - h)) / (2 * h), rtol=1e-6, atol=1e-6)
    close(c.alpha, path.alpha(T))
    close(c.beta, path.beta(T))
    assert (c.gamma is None) == (c.dgamma is None) == (not path.bridge)


@pytest.mark.parametrize("make", **named(PATHS))
def test_coefficients_are_the_same_in_every_autograd_mode_and_carry_no_graph(make):
    path = make()
    usual = path.coefficients(T)
    with torch.inference_mode():
        inferred = path.coefficients(T.clone())
    with torch.no_grad():
        silent = path.coefficients(T)
    for a, b, c in zip(vars(usual).values(), vars(inferred).values(), vars(silent).values(), strict=True):
        if a is not None:
            assert torch.equal(a, b) and torch.equal(a, c) and not a.requires_grad


@pytest.mark.parametrize(
    "make", [LinearPath, lambda: LinearPath(0.4), lambda: LinearPath(sigma_min=0.1), lambda: LinearPath(0.3, 0.2)]
)
def test_written_out_linear_equals_autograd(make):
    path = make()
    for own, derived in zip(
        vars(path.coefficients(T)).values(), vars(Path.coefficients(path, T)).values(), strict=True
    ):
        assert (own is None) == (derived is None)
        if own is not None:
            close(own, derived)


half = torch.pi / 2
FORMULAS = [
    (TrigonometricPath(), -half * torch.sin(half * T), half * torch.cos(half * T), None),
    (PolynomialPath(2, 3), -2 * T, 3 * T**2, None),
    (VarianceExplodingPath(5), torch.full_like(T, -5), 0 * T, None),
    (BrownianBridge(0.6), -torch.ones_like(T), torch.ones_like(T), 0.3 * (1 - 2 * T) / (T * (1 - T)).sqrt()),
    (SmoothBridge(0.8), -torch.ones_like(T), torch.ones_like(T), 0.8 * (1 - 2 * T)),
]


@pytest.mark.parametrize(("path", "dalpha", "dbeta", "dgamma"), FORMULAS)
def test_slopes_are_the_formulas_of_the_theory(path, dalpha, dbeta, dgamma):
    c = path.coefficients(T)
    close(c.dalpha, dalpha)
    close(c.dbeta, dbeta)
    if dgamma is not None:
        close(c.dgamma, dgamma)


def test_variance_preserving_is_the_diffusion_run_backwards():
    """β̇ = ½ r(1 − t) β: the forward diffusion dx = −½ r x du + √r dW loses its signal at rate ½ r, u = 1 − t."""
    path = VariancePreservingPath(0.1, 20)
    c = path.coefficients(T)
    close(c.dbeta, 0.5 * (0.1 + 19.9 * (1 - T)) * c.beta)
    close(c.dalpha, -c.beta * c.dbeta / c.alpha)
