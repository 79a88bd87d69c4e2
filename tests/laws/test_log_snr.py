"""Weights over the log-SNR: what a loss weights, whatever path, prediction and law of times it is written in."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from flowport.errors import FlowportError
from flowport.objective.time_sampler import (
    BetaTimeSampler,
    CosmapTimeSampler,
    LogitNormalTimeSampler,
    ModeTimeSampler,
    PowerTimeSampler,
    UniformTimeSampler,
)
from flowport.objective.weighting import (
    LIMIT,
    CosineWeighting,
    DDPMWeighting,
    EDMWeighting,
    FlowMatchingWeighting,
    LogSNRWeighting,
    ScoreMatchingWeighting,
    SignalToNoiseWeighting,
    UniformWeighting,
    log_snr,
    profile,
)
from flowport.path import LinearPath, TrigonometricPath, VarianceExplodingPath, VariancePreservingPath
from flowport.prediction import FlowState, SourcePrediction, TargetPrediction, VelocityPrediction, endpoints
from flowport.tensors import bisection, over
from flowport.types import Pair, Sample
from tests.laws.oracles import COMPOSITIONS, F64, SCORED, Composition, SourceIsNoise, compositions, line, points, tensor
from tests.zoo import PREDICTIONS, WEIGHTINGS, named

T = torch.linspace(0.02, 0.98, 49, dtype=F64)
ONE = torch.ones_like(T)
KNOWN = [(name, c) for name, c in COMPOSITIONS if not c.path.bridge or c.sees_source]
"""Compositions in which one error determines all others."""
BLIND = [(name, c) for name, c in COMPOSITIONS if (name, c) not in KNOWN]
close = torch.testing.assert_close


def field(path, prediction):
    return Composition(path, SourceIsNoise(), prediction).field(line([(1, 0, 0, 1, 1, 0)]))


@pytest.mark.parametrize(
    "times",
    [
        UniformTimeSampler(),
        LogitNormalTimeSampler(0.3, 0.8),
        ModeTimeSampler(),
        CosmapTimeSampler(),
        BetaTimeSampler(2.0, 1.5),
        PowerTimeSampler(2.0),
    ],
)
def test_linear_flow_is_velocity_on_the_linear_path(times):
    snr, w = profile(T, field(LinearPath(), VelocityPrediction()), times.density(T), UniformWeighting())
    close(snr, 2 * torch.logit(T))
    close(w, FlowMatchingWeighting(times).of(snr))


def test_sd3_logit_normal_in_closed_form():
    snr = torch.linspace(-8, 8, 33, dtype=F64)
    bell = torch.exp(-0.5 * ((snr / 2 - 0.3) / 0.8) ** 2) / (0.8 * math.sqrt(2 * math.pi))
    close(FlowMatchingWeighting(LogitNormalTimeSampler(0.3, 0.8)).of(snr), 0.5 * bell * (1 + torch.exp(-snr / 2)) ** 2)


def test_cosine_velocity_is_flow_matching_up_to_a_constant():
    """v = β ε − α x1 is −2/π of the trigonometric path's velocity."""
    snr, w = profile(T, field(TrigonometricPath(), VelocityPrediction()), ONE, UniformWeighting())
    close(4 / math.pi**2 * w, CosineWeighting().of(snr))
    close(CosineWeighting().of(snr), 2 / math.pi * FlowMatchingWeighting(UniformTimeSampler()).of(snr))


def test_ddpm_and_min_snr_are_errors_of_noise_and_of_target_on_variance_preserving():
    snr, w = profile(T, field(VariancePreservingPath(), SourcePrediction()), ONE, UniformWeighting())
    close(w, DDPMWeighting().of(snr))
    snr, w = profile(T, field(VariancePreservingPath(), TargetPrediction()), ONE, SignalToNoiseWeighting(5.0))
    close(w, DDPMWeighting(limit=5.0).of(snr))
    assert (
        DDPMWeighting().of(tensor(-10.1)) == 0 < DDPMWeighting().of(tensor(-10.0))
    )  # log β²/(1 − β²) at β² = e^(−10.05)


def test_edm_is_its_own_loss():
    """log ς ~ N(−1.2, 1.2²), weight (ς² + d²)/(ς d)² of target errors."""
    noise, d = 20 * (1 - T), 0.5
    density = torch.exp(-0.5 * ((noise.log() + 1.2) / 1.2) ** 2) / (1.2 * math.sqrt(2 * math.pi)) * 20 / noise
    snr, w = profile(
        T,
        field(VarianceExplodingPath(20.0), TargetPrediction()),
        density * (noise**2 + d**2) / (noise * d) ** 2,
        UniformWeighting(),
    )
    close(w, EDMWeighting().of(snr))


@pytest.mark.parametrize("c", **compositions(KNOWN))
def test_unit_is_the_ratio_of_two_answers_to_one_point(c):
    generator = torch.Generator().manual_seed(0)
    x, v, w, x0 = torch.randn(4, len(T), 2, dtype=F64, generator=generator)
    start, k = x0 if c.sees_source else None, c.path.coefficients(T)

    def both(velocity):
        flow_state = FlowState(x, velocity)
        source, _, noise = endpoints(flow_state, k, start)
        flow_state = FlowState(x, velocity, noise)
        return c.prediction.output(flow_state, k, start), source if noise is None else noise

    (a, noise_a), (b, noise_b) = both(v), both(w)
    heads = c.prediction.heads
    _, _, unit = log_snr(T, c.field(c.joint("gaussian")))
    close(unit * (noise_a - noise_b).square().sum(1), (a - b).square().sum(1) / heads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", **named([w for w in WEIGHTINGS if isinstance(w[1](), LogSNRWeighting)]))
def test_a_weight_over_log_snr_is_the_same_in_every_composition(make):
    w = make()
    for _, c in KNOWN:
        if c.path.bridge:
            continue  # near the start of a smooth bridge λ is flat
        field, density = c.field(c.joint("gaussian")), BetaTimeSampler(2.0, 1.5).density(T)
        snr, found = profile(T, field, density, w)
        free = w(T, field, density) < LIMIT  # where a weight had to be limited, near an end, it is smaller
        assert int(free.sum()) > 0.8 * len(T)
        close(found[free], w.of(snr)[free], rtol=1e-9, atol=1e-12)


def test_flow_matching_on_its_own_path_has_weight_one():
    close(FlowMatchingWeighting(UniformTimeSampler())(T, field(LinearPath(), VelocityPrediction()), ONE), ONE)


class Bump(LogSNRWeighting):
    """Smooth, between λ = −4 and 4."""

    def of(self, snr):
        return (1 - (snr / 4) ** 2).clamp_min(0) ** 3


def loss_of(path, prediction, times):
    """E over t, x0 and x1 of the weighted error of a wrong Gaussian denoiser: quadrature in t, exact in x0 and x1."""
    own = Composition(path, SourceIsNoise(), prediction)
    wrong = own.field(line([(1, 0, -0.4, 1, 0.8, 0)]))
    ratio = lambda t: path.beta(t) / path.alpha(t)
    low, high = bisection(ratio, tensor(math.exp(-2), math.exp(2)), 1e-9, 1 - 1e-9).tolist()
    nodes, shares = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(80))
    t = (low + high) / 2 + (high - low) / 2 * nodes
    total = 0.0
    for a, b in product((-1.0, 1.0), repeat=2):  # mean and variance of x0 ~ N(0, 1), x1 ~ N(0.7, 0.3²)
        x0, x1 = torch.full((80, 1), a, dtype=F64), torch.full((80, 1), 0.7 + 0.3 * b, dtype=F64)
        sample = path.sample(Pair(Sample(x0), Sample(x1)), t, None)
        error = wrong.output(sample.x, t, own.condition(x0)) - prediction.target(path, sample)
        density = times.density(t)
        total += (shares * density * Bump()(t, wrong, density) * error[:, 0] ** 2).sum() / 4
    return float(total * (high - low) / 2)


def test_equal_weights_give_equal_losses_by_quadrature():
    paths = [LinearPath(), TrigonometricPath(), VariancePreservingPath(), VarianceExplodingPath()]
    predictions = [make() for name, make in PREDICTIONS if name != "bridge"]
    first = loss_of(paths[0], predictions[0], UniformTimeSampler())
    assert first > 0.1
    for path, prediction, times in product(
        paths, predictions, [UniformTimeSampler(), LogitNormalTimeSampler(0.5, 1.2), ModeTimeSampler()]
    ):
        assert loss_of(path, prediction, times) == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("c", **compositions([item for item in SCORED if item in KNOWN]))
def test_score_matching_weighs_the_score_by_the_variance_of_the_noise(c):
    x, x0 = points(len(T))
    one, other = (c.field(c.joint(kind)) for kind in ("gaussian", "mixture"))
    conditioned, k = c.condition(x0), c.path.coefficients(T)
    gap = one.score(x, T, conditioned) - other.score(x, T, conditioned)
    n = over(k.alpha if k.gamma is None else k.gamma, x)
    error = (one(x, T, conditioned) - other(x, T, conditioned)).square().sum(1) / c.prediction.heads
    close(ScoreMatchingWeighting()(T, one, ONE) * error, (n * gap).square().sum(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("c", **compositions(BLIND))
def test_a_blind_bridge_has_no_weight_over_log_snr(c):
    with pytest.raises(FlowportError, match="conditioning=source"):
        CosineWeighting()(T, c.field(c.joint("gaussian")), ONE)


def test_score_matching_needs_a_score():
    c = next(c for name, c in COMPOSITIONS if name == "linear-NoNoise-velocity")
    with pytest.raises(FlowportError, match="score matching needs a score"):
        ScoreMatchingWeighting()(T, c.field(c.joint("gaussian")), ONE)
