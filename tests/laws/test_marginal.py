"""The flow carries the source's law to the target's, and every volatility has the same marginals."""

import pytest
import torch

from flowport.capabilities import SourceIsNoise
from flowport.path import LinearPath, VarianceExplodingPath, VariancePreservingPath
from flowport.prediction import BridgePrediction, TargetPrediction, VelocityPrediction
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import RK4, Ancestral, EulerMaruyama, StochasticHeun
from flowport.sampling.volatility import ConstantVolatility, MemorylessVolatility, SineVolatility, ZeroVolatility
from tests.laws.oracles import SCORED, VELOCITIES, Composition, compositions, line, moments, tensor
from tests.laws.recursion import Moments, push
from tests.zoo import VOLATILITIES, named

BLIND = [(name, c) for name, c in VELOCITIES if not c.sees_source]


def inner(c, steps):
    """A non-uniform grid inside (0, 1), and the exact moments at its ends; given x0, those of p_t(· | x0)."""
    times = 0.15 + 0.7 * torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 1.3
    joint, x0 = c.joint("gaussian"), None
    if c.sees_source:
        x0 = tensor(0.8, -0.3)
        given = joint.given(x0[None])
        joint = type(joint)(
            joint.log_weights, *(v[0] for v in (given.m0, given.m1)), joint.s0 * 0, given.s1, 0 * joint.s0
        )
    return times, moments(joint, c.path, float(times[0])), moments(joint, c.path, float(times[-1])), x0


@pytest.mark.parametrize("c", **compositions(BLIND))
def test_ode_carries_source_moments_to_target_moments(c):
    """From t = 0 to 1; where the path has gaps, between the path's own ends."""
    low, high = c.path.interval
    times = low + (high - low) * torch.sin(torch.pi / 2 * UniformGrid(30).times(c.path)) ** 2
    joint = c.joint("gaussian")
    end = push(RK4(), c.field(joint), ZeroVolatility(), times, Moments.start(*moments(joint, c.path, low)))[-1]
    assert end.distance(*moments(joint, c.path, high)) < 5e-3
    # The path's ends are source and target up to its gaps and margins.
    one = tensor(high)
    left = max(c.path.end_gap, 1 - high, float(c.path.alpha(one)), float(c.path.gamma(one)) ** 2)
    assert end.distance(c.path.beta(one) * joint.m1[0], c.path.beta(one) ** 2 * joint.s1[0]) < 3 * left + 2e-3


@pytest.mark.parametrize("path", [VariancePreservingPath(), VarianceExplodingPath(20.0), VarianceExplodingPath(80.0)])
def test_declared_start_misses_the_target_by_its_gap(path):
    """Starting from α(0) x0 alone, which leaves β(0) x1 out, shifts the end by at most about the gap."""
    c = Composition(path, SourceIsNoise(), TargetPrediction())
    joint, zero = c.joint("gaussian"), tensor(0.0)
    start = Moments.start(path.alpha(zero) * joint.m0[0], path.alpha(zero) ** 2 * joint.s0[0])
    low, high = path.interval
    times = low + (high - low) * (1 - (1 - UniformGrid(50).times(path)) ** 3)
    end = push(RK4(), c.field(joint), ZeroVolatility(), times, start)[-1]
    error = end.distance(*moments(joint, path, high))
    assert 0.05 * path.start_gap < error < 3 * path.start_gap


# One prediction for each path and role: the others give the same field (test_conversion).
HEADS = [
    (name, c)
    for name, c in SCORED
    if isinstance(c.prediction, BridgePrediction if c.path.bridge else VelocityPrediction)
]


@pytest.mark.parametrize("make", **named([member for member in VOLATILITIES if member[0] != "zero"]))
@pytest.mark.parametrize("c", **compositions(HEADS))
def test_marginals_are_the_same_for_every_volatility(c, make):
    volatility = make()
    solver = StochasticHeun(noiseless_end=False)
    times, first, final, x0 = inner(c, 24)
    states = push(solver, c.field(c.joint("gaussian")), volatility, times, Moments.start(*first), x0)
    scale = 1 + float(final[1].norm() + final[0].norm())
    assert states[-1].distance(*final) < 0.05 * scale


@pytest.mark.parametrize("volatility", [ConstantVolatility(0.8), SineVolatility(), MemorylessVolatility()])
def test_noiseless_end_adds_no_noise_and_keeps_the_moments(volatility):
    c = dict(SCORED)["linear-SourceIsNoise-velocity"]
    joint = c.joint("gaussian")
    start = Moments.start(joint.m0[0], joint.s0[0])
    for solver in (EulerMaruyama(), StochasticHeun()):
        states = push(solver, c.field(joint), volatility, UniformGrid(100).times(c.path), start)
        assert states[-1].distance(joint.m1[0], joint.s1[0]) < 0.03


def normal(s):
    """N(0, 1) to N(1, s²), as in THEORY 2.3."""
    joint = line([(1, 0, 1, 1, s * s, 0)])
    return Composition(LinearPath(), SourceIsNoise(), TargetPrediction()).field(joint), Moments.start(
        tensor(0), tensor(1)[:, None]
    )


@pytest.mark.parametrize(
    ("s", "steps", "std"), [(0.7, 10, 0.555), (0.7, 40, 0.655), (0.3, 40, 0.271), (0.1, 10, 0.057), (0.1, 40, 0.081)]
)
def test_ancestral_has_the_moments_of_the_audit(s, steps, std):
    field, start = normal(s)
    end = push(Ancestral(), field, ZeroVolatility(), UniformGrid(steps).times(field.path), start)[-1]
    assert float(end.mean) == pytest.approx(1, abs=5e-4)
    assert float(end.covariance.sqrt()) == pytest.approx(std, abs=6e-4)


@pytest.mark.parametrize(
    ("s", "steps", "std"), [(0.7, 10, 0.703), (0.7, 40, 0.700), (0.3, 40, 0.301), (0.1, 40, 0.103)]
)
def test_memoryless_euler_maruyama_has_the_moments_of_the_audit(s, steps, std):
    """The marginal-consistent row with a last ODE step: the audit's g² = 2 (1 − t + h)/(t + h), h = 1/K."""

    class Audit(MemorylessVolatility):
        def __call__(self, t, path, role):
            h = 1 / steps
            return (2 * (1 - t + h) / (t + h)).sqrt()

    field, start = normal(s)
    end = push(EulerMaruyama(), field, Audit(), UniformGrid(steps).times(field.path), start)[-1]
    assert float(end.mean) == pytest.approx(1, abs=6e-4)
    assert float(end.covariance.sqrt()) == pytest.approx(std, abs=1.1e-3)


@pytest.mark.parametrize(("s", "steps"), [(0.7, 40), (0.7, 100), (0.3, 100)])
def test_memoryless_with_its_own_offset_has_no_bias_of_the_mean(s, steps):
    field, start = normal(s)
    end = push(EulerMaruyama(), field, MemorylessVolatility(), UniformGrid(steps).times(field.path), start)[-1]
    assert float(end.mean) == pytest.approx(1, abs=1e-3)
    assert float(end.covariance.sqrt()) == pytest.approx(s, rel=0.02)
