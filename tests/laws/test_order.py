"""Solvers have the orders they declare, on grids that are not uniform, and count every call of the field."""

import math

import pytest
import torch

from flowport.capabilities import ConditionedBridge, NoNoise, SourceIsNoise
from flowport.errors import FlowportError
from flowport.field import AnalyticField
from flowport.path import BrownianBridge, LinearPath, TrigonometricPath
from flowport.prediction import VelocityPrediction
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.solver import (
    DDIM,
    RK4,
    Ancestral,
    Churn,
    Dopri5,
    DPMSolver,
    Euler,
    EulerMaruyama,
    FeynmanKac,
    FixedStep,
    Heun,
    Midpoint,
    StochasticHeun,
)
from flowport.sampling.volatility import ConstantVolatility, MemorylessVolatility, SineVolatility, ZeroVolatility
from flowport.tensors import over
from flowport.types import Condition
from tests.laws.oracles import SCORED, Composition, line, moments, tensor
from tests.laws.recursion import Moments, push
from tests.zoo import SOLVERS, named

BENT = line([(0.4, -1.0, 1.5, 0.5, 0.3, 0.2), (0.6, 0.8, -0.7, 0.3, 0.6, -0.25)])


class Strided(AnalyticField):
    """As if it had learnt one Euler step of any length: for solvers that ask for its mean velocity."""

    sees_step = True

    def average_velocity(self, x, t, step, condition):
        return self.velocity(x, t, condition)


def strided(field):
    return Strided(field.joint, field.path, field.prediction, field.conditioning, field.capabilities)


START = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
SEED = torch.Generator().manual_seed(0)


def rank(path, x, t):
    """P(x_t ≤ x) of the mixture: a flow in one dimension keeps it."""
    c = path.coefficients(tensor(t))
    m = c.alpha * BENT.m0[:, 0] + c.beta * BENT.m1[:, 0]
    s = (c.alpha**2 * BENT.s0 + c.beta**2 * BENT.s1 + 2 * c.alpha * c.beta * BENT.cross)[:, 0, 0]
    return (BENT.log_weights.exp() * torch.special.ndtr((x - m) / s.sqrt())).sum(1)


def uneven(steps):
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return u + 0.1 * torch.sin(torch.pi * u) ** 2


def error(solver, path, times):
    dynamics = Dynamics(Composition(path, NoNoise(), VelocityPrediction()).field(BENT), Condition(), ZeroVolatility())
    end = solver.solve(dynamics, START, times, SEED).end
    return float((rank(path, end, float(times[-1])) - rank(path, START, float(times[0]))).square().mean().sqrt())


@pytest.mark.parametrize(("path", "backward"), [(LinearPath(), False), (TrigonometricPath(), True)])
@pytest.mark.parametrize("solver", [Euler(), Midpoint(), Heun(), RK4(), DDIM(), DPMSolver()])
def test_ode_solvers_have_their_order(solver, path, backward):
    if backward and isinstance(solver, DPMSolver):
        pytest.skip("runs forwards only")
    steps = {1: (40, 80, 160), 2: (20, 40, 80), 4: (64, 128)}[solver.order]
    errors = [error(solver, path, uneven(k).flip(0) if backward else uneven(k)) for k in steps]
    slope = math.log(errors[-2] / errors[-1], 2)
    assert solver.order - 0.35 < slope < solver.order + 0.9, errors
    assert errors[-1] < {1: 0.02, 2: 2e-3, 4: 1e-6}[solver.order]


def test_adaptive_error_follows_its_tolerance():
    field, times, errors, calls = (
        Composition(LinearPath(), NoNoise(), VelocityPrediction()).field(BENT),
        tensor(0.0, 1.0),
        [],
        [],
    )
    for tolerance in (1e-3, 1e-5, 1e-7):
        run = Dopri5(tolerance, tolerance).solve(Dynamics(field, Condition(), ZeroVolatility()), START, times, SEED)
        errors.append(float((rank(LinearPath(), run.end, 1.0) - rank(LinearPath(), START, 0.0)).abs().max()))
        calls.append(run.nfe)
        assert errors[-1] < 20 * tolerance
    assert errors[0] > 20 * errors[1] > 400 * errors[2]
    assert calls[0] < calls[1] < calls[2]


@pytest.mark.parametrize("volatility", [ConstantVolatility(0.8), SineVolatility(), MemorylessVolatility()])
@pytest.mark.parametrize("solver", [EulerMaruyama(noiseless_end=False), StochasticHeun(noiseless_end=False)])
@pytest.mark.parametrize("name", ["trigonometric-SourceIsNoise-velocity", "linear_noise-UnconditionedBridge-bridge"])
def test_sde_solvers_have_their_weak_order(name, solver, volatility):
    c = dict(SCORED)[name]
    pairing, errors = c.joint("gaussian"), []
    for steps in (20, 40):
        times = 0.2 + 0.6 * uneven(steps)
        start = Moments.start(*moments(pairing, c.path, 0.2))
        errors.append(
            push(solver, c.field(pairing), volatility, times, start)[-1].distance(*moments(pairing, c.path, 0.8))
        )
    slope = math.log(errors[0] / errors[1], 2)
    assert solver.order - 0.35 < slope < solver.order + 0.7, errors
    assert errors[1] < {1: 0.1, 2: 1e-2}[solver.order]


@pytest.mark.parametrize("make", **named(SOLVERS))
def test_every_call_of_the_field_is_counted(make):
    solver, calls = make(), []
    path = LinearPath()
    field = strided(Composition(path, SourceIsNoise(), VelocityPrediction()).field(line([(1, 0, 1, 1, 0.5, 0)])))
    field.register_forward_hook(lambda *_: calls.append(1))
    volatility = ConstantVolatility() if solver.stochastic and not solver.needs_score else ZeroVolatility()
    dynamics = Dynamics(field, Condition(), volatility)
    times = torch.linspace(0, 1, 8, dtype=torch.float64)
    first = solver.solve(dynamics, START, times, SEED)
    each = solver.particles if isinstance(solver, FeynmanKac) else 1  # points for every result, in one call
    assert first.nfe == each * len(calls) == dynamics.evaluations
    second = solver.solve(dynamics, START, times, SEED, all_states=True)
    assert second.nfe == each * len(calls) - first.nfe
    assert first.times.tolist() == [1.0] and torch.equal(second.times, times)
    assert second.states.shape == (8, 21, 1)
    assert torch.equal(second.states[0], START) or isinstance(solver, FeynmanKac)  # whose particles have fresh noise
    if isinstance(solver, FixedStep):
        assert first.nfe == 7 * solver.calls - isinstance(solver, Churn)  # its last step is the mean
        assert [solver.steps(nfe) for nfe in (1, 4, 32)] == [1, 4 // solver.calls, 32 // solver.calls]
    elif isinstance(solver, FeynmanKac):
        assert [solver.steps(nfe) for nfe in (1, 4, 32)] == [1, 2, 16]
    else:
        with pytest.raises(FlowportError, match="chooses its own steps"):
            solver.steps(8)


@pytest.mark.parametrize("make", **named(SOLVERS))
def test_states_on_the_grid_are_the_ends_of_shorter_runs(make):
    """all_states=True returns the state at each time, not one before or after."""
    solver = make()
    if solver.stochastic:
        pytest.skip("the last step of a stochastic solver is special, and its noise is drawn on the way")
    field = strided(Composition(LinearPath(), NoNoise(), VelocityPrediction()).field(BENT))
    times = uneven(6)
    kept = solver.solve(Dynamics(field, Condition(), ZeroVolatility()), START, times, SEED, all_states=True)
    for k in (1, 3, 6):
        short = solver.solve(Dynamics(field, Condition(), ZeroVolatility()), START, times[: k + 1], SEED)
        torch.testing.assert_close(kept.states[k], short.end, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", **named(SOLVERS))
def test_ode_solvers_refuse_stochastic_dynamics(make):
    solver = make()
    field = Composition(LinearPath(), SourceIsNoise(), VelocityPrediction()).field(line([(1, 0, 1, 1, 0.5, 0)]))
    dynamics = Dynamics(field, Condition(), ConstantVolatility())
    if solver.stochastic:
        assert solver.solve(dynamics, START, uneven(4), SEED).end.isfinite().all()
    else:
        with pytest.raises(FlowportError, match="volatility=zero"):
            solver.solve(dynamics, START, uneven(4), SEED)


def test_noise_of_a_solver_comes_from_its_generator_alone():
    field = Composition(LinearPath(), SourceIsNoise(), VelocityPrediction()).field(line([(1, 0, 1, 1, 0.5, 0)]))

    def run(seed):
        dynamics = Dynamics(field, Condition(), ConstantVolatility())
        torch.manual_seed(seed)
        return EulerMaruyama().solve(dynamics, START, uneven(5), torch.Generator().manual_seed(3)).end

    assert torch.equal(run(0), run(1))


def test_ancestral_of_a_brownian_bridge_to_a_point_is_the_pinned_bridge():
    """Each step from t to s has mean x + (s − t)/(1 − t) (x1 − x) and variance noise² (s − t)(1 − s)/(1 − t)."""
    path, x0, x1 = BrownianBridge(0.6), tensor(-0.4), 1.3
    pairing = line([(1, 0.2, x1, 0.5, 1e-14, 0)])
    field = Composition(path, ConditionedBridge(), VelocityPrediction()).field(pairing)
    dynamics = Dynamics(field, Condition(source=x0.expand(3, 1)), ZeroVolatility())
    x = tensor(-0.7, 0.3, 0.9)[:, None]
    for t, s in ((0.05, 0.1), (0.3, 0.35), (0.5, 0.9), (0.9, 0.99)):
        still = Ancestral().step(dynamics, x, t, s, torch.zeros_like(x), False)
        kicked = Ancestral().step(dynamics, x, t, s, torch.ones_like(x), False)
        torch.testing.assert_close(still, x + (s - t) / (1 - t) * (x1 - x), rtol=1e-8, atol=1e-8)
        variance = 0.36 * (s - t) * (1 - s) / (1 - t)
        torch.testing.assert_close((kicked - still) ** 2, torch.full_like(x, variance), rtol=1e-8, atol=1e-8)
    last = Ancestral().step(dynamics, x, 0.9, 1.0, torch.ones_like(x), True)
    torch.testing.assert_close(last, torch.full_like(x, x1), rtol=1e-8, atol=1e-8)
    start = Moments(x0, torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    states = push(Ancestral(), field, ZeroVolatility(), times, start, x0)
    for t, state in zip(times.tolist(), states, strict=True):
        assert float(state.mean) == pytest.approx((1 - t) * float(x0) + t * x1, abs=2e-3)  # the margin of t = 0
        assert float(state.covariance) == pytest.approx(0.36 * t * (1 - t), abs=1e-3)
    assert float(states[-1].covariance) == pytest.approx(0, abs=1e-12)


def test_ancestral_runs_forwards_only():
    field = Composition(LinearPath(), SourceIsNoise(), VelocityPrediction()).field(line([(1, 0, 1, 1, 0.5, 0)]))
    with pytest.raises(FlowportError, match="source to target only"):
        Ancestral().solve(Dynamics(field, Condition(), ZeroVolatility()), START, uneven(4).flip(0), SEED)


def test_drift_is_velocity_plus_or_minus_half_g_squared_score():
    field = Composition(TrigonometricPath(), SourceIsNoise(), VelocityPrediction()).field(line([(1, 0, 1, 1, 0.5, 0)]))
    t = tensor(0.4).expand(21)
    velocity, score = field.velocity_and_score(START, t, Condition())
    for backward, sign in ((False, 1), (True, -1)):
        for volatility in (ConstantVolatility(0.8), SineVolatility(), MemorylessVolatility()):
            dynamics = Dynamics(field, Condition(), volatility, backward)
            g = over(volatility(t, field.path, field.capabilities.role), START)
            torch.testing.assert_close(dynamics.drift(START, t), velocity + sign * g**2 / 2 * score)
            torch.testing.assert_close(dynamics.diffusion(t), g[:, 0])


@pytest.mark.parametrize("solver", [EulerMaruyama(), StochasticHeun(), Ancestral()])
def test_the_last_step_of_a_grid_and_no_other_is_noiseless(solver):
    field = Composition(LinearPath(), SourceIsNoise(), VelocityPrediction()).field(line([(1, 0, 1, 1, 0.5, 0)]))
    dynamics = Dynamics(field, Condition(), ZeroVolatility() if isinstance(solver, Ancestral) else ConstantVolatility())

    def run(times):
        return solver.solve(dynamics, START, times, torch.Generator().manual_seed(4), all_states=True).states

    states, again = run(uneven(3)), torch.Generator().manual_seed(4)
    x = START
    for k, (t, s) in enumerate(zip(uneven(3).tolist()[:-1], uneven(3).tolist()[1:], strict=True)):
        noise = torch.randn(START.shape, generator=again, dtype=START.dtype)
        x = solver.step(dynamics, x, t, s, noise, last=k == 2)
        torch.testing.assert_close(states[k + 1], x)
    kicked = [solver.step(dynamics, states[2], float(uneven(3)[2]), 1.0, n, last=True) for n in (START, 5 + START)]
    assert torch.equal(*kicked) and torch.equal(kicked[0], states[3])
