"""Weights over the log-SNR: what a loss weights, whatever path, prediction and law of times it is written in."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from flowport.broadcast import over
from flowport.errors import Refusal
from flowport.inversion import inverse
from flowport.path import Linear, Trigonometric, VarianceExploding, VariancePreserving
from flowport.prediction import Hub, Source, Target, Velocity, endpoints
from flowport.shapes import Pair, Sample
from flowport.time_sampler import Beta, CosMap, LogitNormal, Mode, Power, Uniform
from flowport.weighting import (
    DDPM,
    EDM,
    LIMIT,
    Cosine,
    LinearFlow,
    OverLogSNR,
    ScoreMatching,
    SignalToNoise,
    log_snr,
    profile,
)
from flowport.weighting import Uniform as One
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


@pytest.mark.parametrize("times", [Uniform(), LogitNormal(0.3, 0.8), Mode(), CosMap(), Beta(2.0, 1.5), Power(2.0)])
def test_linear_flow_is_velocity_on_the_linear_path(times):
    snr, w = profile(T, field(Linear(), Velocity()), times.density(T), One())
    close(snr, 2 * torch.logit(T))
    close(w, LinearFlow(times).of(snr))


def test_sd3_logit_normal_in_closed_form():
    snr = torch.linspace(-8, 8, 33, dtype=F64)
    bell = torch.exp(-0.5 * ((snr / 2 - 0.3) / 0.8) ** 2) / (0.8 * math.sqrt(2 * math.pi))
    close(LinearFlow(LogitNormal(0.3, 0.8)).of(snr), 0.5 * bell * (1 + torch.exp(-snr / 2)) ** 2)


def test_cosine_velocity_is_flow_matching_up_to_a_constant():
    """v = β ε − α x1 is −2/π of the trigonometric path's velocity."""
    snr, w = profile(T, field(Trigonometric(), Velocity()), ONE, One())
    close(4 / math.pi**2 * w, Cosine().of(snr))
    close(Cosine().of(snr), 2 / math.pi * LinearFlow(Uniform()).of(snr))


def test_ddpm_and_min_snr_are_errors_of_noise_and_of_target_on_variance_preserving():
    snr, w = profile(T, field(VariancePreserving(), Source()), ONE, One())
    close(w, DDPM().of(snr))
    snr, w = profile(T, field(VariancePreserving(), Target()), ONE, SignalToNoise(5.0))
    close(w, DDPM(limit=5.0).of(snr))
    assert DDPM().of(tensor(-10.1)) == 0 < DDPM().of(tensor(-10.0))  # log β²/(1 − β²) at β² = e^(−10.05)


def test_edm_is_its_own_loss():
    """log ς ~ N(−1.2, 1.2²), weight (ς² + d²)/(ς d)² of target errors."""
    noise, d = 20 * (1 - T), 0.5
    density = torch.exp(-0.5 * ((noise.log() + 1.2) / 1.2) ** 2) / (1.2 * math.sqrt(2 * math.pi)) * 20 / noise
    snr, w = profile(T, field(VarianceExploding(20.0), Target()), density * (noise**2 + d**2) / (noise * d) ** 2, One())
    close(w, EDM().of(snr))


@pytest.mark.parametrize("c", **compositions(KNOWN))
def test_unit_is_the_ratio_of_two_answers_to_one_point(c):
    generator = torch.Generator().manual_seed(0)
    x, v, w, x0 = torch.randn(4, len(T), 2, dtype=F64, generator=generator)
    start, k = x0 if c.sees_source else None, c.path.coefficients(T)

    def both(velocity):
        hub = Hub(x, velocity)
        source, _, noise = endpoints(hub, k, start)
        hub = Hub(x, velocity, noise)
        return c.prediction.output(hub, k, start), source if noise is None else noise

    (a, noise_a), (b, noise_b) = both(v), both(w)
    heads = c.prediction.heads
    _, _, unit = log_snr(T, c.field(c.joint("gaussian")))
    close(unit * (noise_a - noise_b).square().sum(1), (a - b).square().sum(1) / heads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", **named([w for w in WEIGHTINGS if isinstance(w[1](), OverLogSNR)]))
def test_a_weight_over_log_snr_is_the_same_in_every_composition(make):
    w = make()
    for _, c in KNOWN:
        if c.path.bridge:
            continue  # near the start of a smooth bridge λ is flat
        field, density = c.field(c.joint("gaussian")), Beta(2.0, 1.5).density(T)
        snr, found = profile(T, field, density, w)
        free = w(T, field, density) < LIMIT  # where a weight had to be limited, near an end, it is smaller
        assert int(free.sum()) > 0.8 * len(T)
        close(found[free], w.of(snr)[free], rtol=1e-9, atol=1e-12)


def test_flow_matching_on_its_own_path_has_weight_one():
    close(LinearFlow(Uniform())(T, field(Linear(), Velocity()), ONE), ONE)


class Bump(OverLogSNR):
    """Smooth, between λ = −4 and 4."""

    def of(self, snr):
        return (1 - (snr / 4) ** 2).clamp_min(0) ** 3


def loss_of(path, prediction, times):
    """E over t, x0 and x1 of the weighted error of a wrong Gaussian denoiser: quadrature in t, exact in x0 and x1."""
    own = Composition(path, SourceIsNoise(), prediction)
    wrong = own.field(line([(1, 0, -0.4, 1, 0.8, 0)]))
    ratio = lambda t: path.beta(t) / path.alpha(t)
    low, high = inverse(ratio, tensor(math.exp(-2), math.exp(2)), 1e-9, 1 - 1e-9).tolist()
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
    paths = [Linear(), Trigonometric(), VariancePreserving(), VarianceExploding()]
    predictions = [make() for name, make in PREDICTIONS if name != "bridge"]
    first = loss_of(paths[0], predictions[0], Uniform())
    assert first > 0.1
    for path, prediction, times in product(paths, predictions, [Uniform(), LogitNormal(0.5, 1.2), Mode()]):
        assert loss_of(path, prediction, times) == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("c", **compositions([item for item in SCORED if item in KNOWN]))
def test_score_matching_weighs_the_score_by_the_variance_of_the_noise(c):
    x, x0 = points(len(T))
    one, other = (c.field(c.joint(kind)) for kind in ("gaussian", "mixture"))
    told, k = c.condition(x0), c.path.coefficients(T)
    gap = one.score(x, T, told) - other.score(x, T, told)
    n = over(k.alpha if k.gamma is None else k.gamma, x)
    error = (one(x, T, told) - other(x, T, told)).square().sum(1) / c.prediction.heads
    close(ScoreMatching()(T, one, ONE) * error, (n * gap).square().sum(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("c", **compositions(BLIND))
def test_a_blind_bridge_has_no_weight_over_log_snr(c):
    with pytest.raises(Refusal, match="conditioning=source"):
        Cosine()(T, c.field(c.joint("gaussian")), ONE)


def test_score_matching_needs_a_score():
    c = next(c for name, c in COMPOSITIONS if name == "linear-NoNoise-velocity")
    with pytest.raises(Refusal, match="score matching needs a score"):
        ScoreMatching()(T, c.field(c.joint("gaussian")), ONE)
