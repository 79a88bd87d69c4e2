"""Guidance against tilts in closed form."""

import pytest
import torch

from flowport.capabilities import Capabilities, NoNoise, UnconditionedBridge
from flowport.conditioning import Unconditional
from flowport.errors import FlowportError
from flowport.field import AnalyticField
from flowport.field.guidance import RewardGuidance
from flowport.path import BrownianBridge, LinearPath, TrigonometricPath
from flowport.prediction import VelocityPrediction
from flowport.reward import LinearReward
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import EulerMaruyama, Heun
from flowport.sampling.volatility import ConstantVolatility, ZeroVolatility
from flowport.types import Condition
from tests.laws.oracles import line
from tests.laws.tilts import F64, from_noise, given_start, mixture

M, C = torch.tensor([[1.0, -0.5]], dtype=F64), torch.tensor([0.6, -0.9], dtype=F64)
S = torch.tensor([[[0.7, 0.3], [0.3, 0.4]]], dtype=F64)
LAMBDA = 1.7


def points(n=40, d=2):
    generator = torch.Generator().manual_seed(0)
    t = torch.linspace(0.02, 0.98, n, dtype=F64)
    return 1.5 * torch.randn(n, d, dtype=F64, generator=generator), t


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()], ids=["linear", "trigonometric"])
def test_guidance_is_the_tilt_of_a_gaussian_by_a_linear_reward(path):
    base, tilt = (from_noise(mixture([1.0], m, S), path) for m in (M, M + LAMBDA * (S[0] @ C)))
    guided, (x, t) = RewardGuidance(base, LinearReward(C), LAMBDA), points()
    torch.testing.assert_close(guided.velocity(x, t, Condition()), tilt.velocity(x, t, Condition()), rtol=0, atol=1e-9)
    torch.testing.assert_close(guided.score(x, t, Condition()), tilt.score(x, t, Condition()), rtol=0, atol=1e-9)
    assert float((base.velocity(x, t, Condition()) - tilt.velocity(x, t, Condition())).abs().max()) > 0.3


def test_guidance_is_the_tilt_per_start_on_a_bridge():
    rest = 0.49 - 0.21**2 / 0.25
    base, tilt = (given_start(line([(1, 2, m, 0.25, 0.49, 0.21)]), BrownianBridge(0.8)) for m in (1, 1 + rest * 0.9))
    x, t = points(d=1)
    conditioned = Condition(source=points(d=1)[0].flip(0))
    guided = RewardGuidance(base, LinearReward([0.9]))
    torch.testing.assert_close(guided.velocity(x, t, conditioned), tilt.velocity(x, t, conditioned), rtol=0, atol=1e-9)


def test_guidance_of_a_mixture_is_biased():
    """The reward of the mean is not the mean of e^r: between modes it pulls with the slope of their whole spread, and
    the tilt's weights of the modes are missed."""
    means, spreads = torch.tensor([[-1.5], [1.0]], dtype=F64), torch.full((2, 1, 1), 0.1, dtype=F64)
    base = from_noise(mixture([0.5, 0.5], means, spreads))
    odds = torch.exp(2.0 * means[:, 0])
    tilt = from_noise(mixture((odds / odds.sum()).tolist(), means + 0.2, spreads))
    x, t = points(d=1)
    apart = RewardGuidance(base, LinearReward([2.0])).velocity(x, t, Condition()) - tilt.velocity(x, t, Condition())
    assert float(apart.square().mean()) > 0.1


@pytest.mark.parametrize(
    ("solver", "volatility"), [(Heun(), ZeroVolatility()), (EulerMaruyama(), ConstantVolatility(0.5))]
)
def test_samplers_reach_the_tilt_also_in_inference_mode(solver, volatility):
    base = from_noise(mixture([1.0], M, S))
    guided, generator = RewardGuidance(base, LinearReward(C), LAMBDA), torch.Generator().manual_seed(1)
    x = torch.randn(2000, 2, dtype=F64, generator=generator)
    with torch.inference_mode():
        dynamics = Dynamics(guided, Condition(), volatility)
        end = solver.solve(dynamics, x, UniformGrid(40).times(base.path), generator).end
    wanted = M[0] + LAMBDA * (S[0] @ C)
    assert bool(((end.mean(0) - wanted).abs() < 4 * (S[0].diagonal() / 2000).sqrt() + 0.01).all())


def test_guidance_is_refused_without_a_score_or_a_gradient():
    pairing = mixture([1.0], M, S)
    for role in (NoNoise(), UnconditionedBridge()):
        base = AnalyticField(pairing, LinearPath(), VelocityPrediction(), Unconditional(), Capabilities(role, False))
        with pytest.raises(FlowportError):
            RewardGuidance(base, LinearReward(C))
    hard = LinearReward(C)
    hard.differentiable = False
    with pytest.raises(FlowportError, match="guidance needs the reward's gradient"):
        RewardGuidance(from_noise(pairing), hard)
    with pytest.raises(FlowportError, match="strength > 0"):
        RewardGuidance(from_noise(pairing), LinearReward(C), 0.0)
