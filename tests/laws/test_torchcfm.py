"""The paths against torchcfm's matchers, given the same pair, time and noise."""

import pytest
import torch

from flowport.path import BrownianBridge, LinearPath, TrigonometricPath
from flowport.types import Pair, Sample
from tests.laws.oracles import points

matchers = pytest.importorskip("torchcfm.conditional_flow_matching")
T = torch.linspace(0.02, 0.98, 12, dtype=torch.float64)
X0, X1 = points(12)
Z, _ = points(12, seed=5)
PAIR = Pair(Sample(X0), Sample(X1))
close = torch.testing.assert_close


@pytest.mark.parametrize("noise", [0.1, 0.7])
def test_linear_with_noise_is_conditional_flow_matching(noise):
    theirs, ours = matchers.ConditionalFlowMatcher(noise), LinearPath(noise=noise).sample(PAIR, T, Z)
    x = theirs.sample_xt(X0, X1, T, Z)
    close(ours.x, x)
    close(ours.velocity, theirs.compute_conditional_flow(X0, X1, T, x))


def test_linear_is_conditional_flow_matching_without_noise():
    theirs, ours = matchers.ConditionalFlowMatcher(0.0), LinearPath().sample(PAIR, T, None)
    close(ours.x, theirs.sample_xt(X0, X1, T, Z))
    close(ours.velocity, theirs.compute_conditional_flow(X0, X1, T, ours.x))


@pytest.mark.parametrize("sigma_min", [0.0, 0.1])
def test_linear_with_sigma_min_is_target_flow_matching_whose_noise_is_our_source(sigma_min):
    """Theirs throws x0 away and draws its own ε: our source plays ε."""
    theirs, ours = (
        matchers.TargetConditionalFlowMatcher(sigma_min),
        LinearPath(sigma_min=sigma_min).sample(PAIR, T, None),
    )
    x = theirs.compute_mu_t(None, X1, T) + theirs.compute_sigma_t(T)[:, None] * X0
    close(ours.x, x)
    close(ours.velocity, theirs.compute_conditional_flow(None, X1, T, x))


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_brownian_bridge_is_schroedinger_bridge_flow_matching(noise):
    theirs = matchers.SchrodingerBridgeConditionalFlowMatcher(noise)
    path = BrownianBridge(noise)
    ours, c = path.sample(PAIR, T, Z), path.coefficients(T).over(X0)
    close(c.alpha * X0 + c.beta * X1, theirs.compute_mu_t(X0, X1, T))
    close(path.gamma(T), theirs.compute_sigma_t(T))
    x = theirs.sample_xt(X0, X1, T, Z)
    close(ours.x, x)
    # theirs adds 1e-8 to 2t(1 − t)
    close(ours.velocity, theirs.compute_conditional_flow(X0, X1, T, x), rtol=1e-5, atol=1e-5)


def test_trigonometric_is_variance_preserving_flow_matching():
    theirs, ours = matchers.VariancePreservingConditionalFlowMatcher(0.0), TrigonometricPath().sample(PAIR, T, None)
    close(ours.x, theirs.compute_mu_t(X0, X1, T))
    close(ours.velocity, theirs.compute_conditional_flow(X0, X1, T, ours.x))
