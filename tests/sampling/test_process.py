"""Processes have the laws they declare: by the Fokker–Planck equation, by exact recursion, backwards as forwards."""

import itertools

import pytest
import torch

from flowport.capabilities import SourceIsNoise
from flowport.errors import FlowportError
from flowport.path import BrownianBridge, LinearPath, TrigonometricPath, VariancePreservingPath
from flowport.prediction import VelocityPrediction
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.process import (
    BrownianProcess,
    LangevinProcess,
    NoisingProcess,
    OrnsteinUhlenbeckProcess,
    ReverseProcess,
)
from flowport.sampling.solver import DDIM, EulerMaruyama, StochasticHeun
from flowport.sampling.volatility import MemorylessVolatility
from flowport.types import Condition
from tests.laws.oracles import Composition, points
from tests.zoo import PROCESSES, TWO, named

X = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]


def density(process, t, x):
    return process.law(t).log_prob(x).exp()


@pytest.mark.parametrize("make", **named(PROCESSES))
def test_fokker_planck(make):
    """∂p/∂t = −∂(b p)/∂x ± ½ g² ∂²p/∂x², with − for a process that runs backwards in time; p_begin is the start."""
    process = make()
    way = 1.0 if process.begin < process.end else -1.0
    for t in (0.25, 0.6, 0.9):
        x = X.clone().requires_grad_()
        p = density(process, t, x)
        time = torch.full((len(x),), t, dtype=x.dtype)
        slope = torch.autograd.grad(p.sum(), x, create_graph=True)[0]
        flux = process.drift(x, time) * p[:, None] - way * 0.5 * process.diffusion(time)[:, None] ** 2 * slope
        change = -torch.autograd.grad(flux.sum(), x)[0][:, 0]
        h = 1e-4
        exact = (density(process, t + h, X) - density(process, t - h, X)) / (2 * h)
        torch.testing.assert_close(change, exact, rtol=1e-4, atol=1e-5)


def test_laws_that_are_well_known():
    start = TWO().components
    m, v = float(start.mean()), float(start.covariance())
    for process, t, mean, variance in (
        (BrownianProcess(TWO(), 0.7), 0.6, m, v + 0.49 * 0.6),
        (OrnsteinUhlenbeckProcess(TWO(), 50.0, 0.4, 3.0), 1.0, 0.4, 9 / 100),
        (OrnsteinUhlenbeckProcess(TWO(), 1e-7, 0.4, 0.7), 0.6, m, v + 0.49 * 0.6),
        (LangevinProcess(TWO()), 0.7, m, v),
        (NoisingProcess(TWO(), LinearPath()), 0.0, 0.0, 1.0),
        (NoisingProcess(TWO(), LinearPath()), 0.3, 0.3 * m, 0.7**2 + 0.3**2 * v),
        (ReverseProcess(NoisingProcess(TWO(), LinearPath())), 1.0, m, v),
    ):
        law = process.law(t)
        assert float(law.mean()) == pytest.approx(mean, abs=1e-6)
        assert float(law.covariance()) == pytest.approx(variance, abs=1e-6)


@pytest.mark.parametrize("solver", [EulerMaruyama(noiseless_end=False), StochasticHeun(noiseless_end=False)])
@pytest.mark.parametrize(
    "process",
    [
        BrownianProcess(TWO(), 0.7),
        OrnsteinUhlenbeckProcess(TWO(), 2.0, 0.4, 0.9),
        NoisingProcess(TWO(), TrigonometricPath()),
    ],
    ids=["brownian", "ornstein_uhlenbeck", "noising"],
)
def test_solvers_reach_the_exact_moments_with_their_order(process, solver):
    """Mean and variance by recursion, x' = m x + n ξ + c at every step; Brownian motion is exact at once."""
    errors, (unit, kick) = [], torch.tensor([[[0.0], [1.0], [0.0]], [[0.0], [0.0], [1.0]]], dtype=torch.float64)
    for steps in (16, 32):
        law, grid = process.law(process.begin), torch.linspace(process.begin, 0.5, steps + 1, dtype=torch.float64)
        mean, variance = float(law.mean()), float(law.covariance())
        for t, s in itertools.pairwise(grid.tolist()):
            c, m, n = solver.step(process, unit, t, s, kick, False)[:, 0].tolist()
            mean, variance = (m - c) * mean + c, (m - c) ** 2 * variance + (n - c) ** 2
        exact = process.law(0.5)
        errors.append(abs(mean - float(exact.mean())) + abs(variance - float(exact.covariance())))
    assert errors[1] < 1e-12 or 2 ** (solver.order - 0.4) < errors[0] / errors[1] < 2 ** (solver.order + 1), errors
    assert errors[1] < 0.03


@pytest.mark.parametrize("path", [LinearPath(), VariancePreservingPath()])
def test_noising_is_every_field_backwards_with_the_memoryless_volatility(path):
    c = Composition(path, SourceIsNoise(), VelocityPrediction())
    x, _ = points(9)
    dynamics = Dynamics(c.field(c.joint("mixture")), Condition(), MemorylessVolatility(1e-3), backward=True)
    for t in torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64):
        torch.testing.assert_close(NoisingProcess(TWO(), path).drift(x, t.expand(9)), dynamics.drift(x, t.expand(9)))
        torch.testing.assert_close(NoisingProcess(TWO(), path).diffusion(t.expand(9)), dynamics.diffusion(t.expand(9)))


def test_the_reverse_of_the_reverse_is_the_process():
    process, t = NoisingProcess(TWO(), LinearPath()), torch.full((41,), 0.4, dtype=torch.float64)
    torch.testing.assert_close(ReverseProcess(ReverseProcess(process)).drift(X, t), process.drift(X, t))
    assert float((ReverseProcess(process).drift(X, t) - process.drift(X, t)).abs().max()) > 1


def test_refusals():
    times, generator = torch.linspace(0, 1, 3, dtype=torch.float64), torch.Generator()
    for solver in (EulerMaruyama(), StochasticHeun()):
        with pytest.raises(FlowportError, match="BrownianProcess is a process without a flow's velocity"):
            solver.solve(BrownianProcess(TWO()), X, times, generator)
    with pytest.raises(FlowportError, match="DDIM is an ODE solver"):
        DDIM().solve(BrownianProcess(TWO()), X, times, generator)
    with pytest.raises(FlowportError, match="not a bridge"):
        NoisingProcess(TWO(), BrownianBridge())
    for make in (BrownianProcess, LangevinProcess, OrnsteinUhlenbeckProcess):
        with pytest.raises(FlowportError, match="needs scale > 0, not -1"):
            make(TWO(), scale=-1)
