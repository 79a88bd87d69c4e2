"""The fast exact field of a problem is that of the package, at all times, tilted or not."""

import math

import pytest
import torch

from flowport.capabilities import Capabilities, ConditionedBridge, SourceIsNoise
from flowport.conditioning import SourceConditioning, Unconditional
from flowport.distribution import Gaussian, Moons
from flowport.field import AnalyticField
from flowport.field.analytic import JointMixture
from flowport.path import LinearPath
from flowport.prediction import VelocityPrediction
from flowport.problem import BridgeProblem, NoiseProblem
from flowport.types import Condition

F64 = torch.float64
MEANS, SPREAD, TURNS = [[-1.0, 0.5], [1.5, -0.5]], [[0.6, 0.3], [0.5, 0.8]], [0.5, -0.4]
C, Q = [0.7, -0.4], [[0.5, 0.1], [0.1, -0.2]]


def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        2 * torch.randn(64, 2, generator=generator, dtype=F64),
        torch.rand(64, generator=generator, dtype=F64) * 0.98 + 0.01,
    )


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_from_noise(strength: float) -> None:
    problem = NoiseProblem([0.7, 0.3], MEANS, SPREAD, TURNS, C, Q)
    law = problem.tilt(strength, torch.zeros(1, 2))[0]
    one = torch.ones(1, dtype=F64)
    joint = JointMixture.product(
        one, torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)[None], law.weights[0], law.means[0], law.covariances
    )
    known = AnalyticField(
        joint, LinearPath(), VelocityPrediction(), Unconditional(), Capabilities(SourceIsNoise(), True)
    )
    x, t = points()
    for a, b in zip(
        known.velocity_and_score(x, t, Condition()),
        problem.tilted(strength).velocity_and_score(x, t, Condition()),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-9)


def test_a_correlated_bridge() -> None:
    problem = BridgeProblem(
        Gaussian(mean=[1.0, 0.0], covariance=[[0.8, 0.2], [0.2, 0.5]], dtype=F64),
        [1.0],
        [[1.0, -0.5]],
        [0.9, 0.5],
        0.6,
        C,
        correlation=0.6,
    )
    s0, s1 = problem.source.covariance, problem.target.components.covariances[0]
    cross = 0.6 * torch.linalg.cholesky(s0) @ torch.linalg.cholesky(s1).mT
    joint = JointMixture.gaussian(problem.source.mean, s0, problem.target.components.means[0], s1, cross)
    known = AnalyticField(
        joint, problem.path, VelocityPrediction(), SourceConditioning(), Capabilities(ConditionedBridge(), True)
    )
    x, t = points()
    condition = Condition(source=problem.source.sample(64, torch.Generator().manual_seed(1)).x)
    for a, b in zip(
        known.velocity_and_score(x, t, condition), problem.base.velocity_and_score(x, t, condition), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-9)
    law, start = problem.tilt(0.7, condition.source)[0], condition.source
    rest = torch.linalg.solve(s0, cross).mT @ (start - problem.source.mean).mT
    given = s1 - cross.mT @ torch.linalg.solve(s0, cross)
    wanted = (problem.target.components.means[0][:, None] + rest).mT + 0.7 * given @ torch.tensor(C, dtype=F64)
    assert torch.allclose(law.mean, wanted), "N(m + Sc, S) of the law given the start"


def test_a_tilted_bridge_is_the_bridge_to_the_tilt() -> None:
    problem = BridgeProblem(Moons(dtype="float64"), [0.7, 0.3], MEANS, SPREAD, TURNS, C, Q)
    law = problem.tilt(0.7, torch.zeros(1, 2))[0]
    other = BridgeProblem(Moons(dtype="float64"), law.weights[0], law.means[0].tolist(), [1.0, 1.0], 0.0, C)
    x, t = points()
    condition = Condition(source=problem.source.sample(64, torch.Generator().manual_seed(1)).x)
    one = torch.ones(1, dtype=F64)
    joint = JointMixture.product(
        one, torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)[None], law.weights[0], law.means[0], law.covariances
    )
    known = AnalyticField(
        joint, other.path, VelocityPrediction(), SourceConditioning(), Capabilities(ConditionedBridge(), True)
    )
    assert torch.allclose(known.velocity(x, t, condition), problem.tilted(0.7).velocity(x, t, condition), atol=1e-9)
    assert math.isclose(float(known.path.gamma(torch.tensor(0.5))), 0.5)
