"""A flow on another path: the same law at every ratio of the weights, the same ends."""

from itertools import permutations

import pytest
import torch

from flowport.capabilities import NoNoise, SourceIsNoise, UnconditionedBridge
from flowport.errors import FlowportError
from flowport.field import PathTransformedField
from flowport.path import (
    FunctionsPath,
    LinearPath,
    PolynomialPath,
    SmoothBridge,
    TrigonometricPath,
    VarianceExplodingPath,
    VariancePreservingPath,
)
from flowport.prediction import SourcePrediction, VelocityPrediction
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.solver import RK4
from flowport.sampling.volatility import ZeroVolatility
from flowport.tensors import bisection
from flowport.types import Condition
from tests.laws.oracles import F64, Composition, points

PATHS = [LinearPath(), TrigonometricPath(), VarianceExplodingPath(), PolynomialPath(), VariancePreservingPath()]
NAMES = [type(path).__name__ for path in PATHS]
close = torch.testing.assert_close
T = torch.linspace(0.1, 0.95, 12, dtype=F64)


def oracle(path, role=None, prediction=None):
    c = Composition(path, role or SourceIsNoise(), prediction or VelocityPrediction())
    return c.field(c.joint("mixture"))


PAIRS = {"argvalues": list(permutations(PATHS, 2)), "ids": ["-".join(names) for names in permutations(NAMES, 2)]}


@pytest.mark.parametrize(("own", "other"), **PAIRS)
def test_velocity_and_score_are_those_of_the_other_path(own, other):
    x, _ = points(12)
    t = bisection(lambda s: other.beta(s) / other.alpha(s), torch.logspace(-1, 1, 12, dtype=F64), 1e-9, 1 - 1e-9)
    found = PathTransformedField(oracle(own, prediction=SourcePrediction()), other).velocity_and_score(
        x, t, Condition()
    )
    for value, wanted in zip(found, oracle(other).velocity_and_score(x, t, Condition()), strict=True):
        close(value, wanted, rtol=1e-9, atol=1e-9)


def test_any_source_and_coupling_will_do():
    x, _ = points(12)
    found = PathTransformedField(oracle(LinearPath(), NoNoise()), TrigonometricPath()).velocity(x, T, Condition())
    close(found, oracle(TrigonometricPath(), NoNoise()).velocity(x, T, Condition()), rtol=1e-9, atol=1e-9)


def test_the_ode_has_the_same_ends_on_every_path():
    """From one point at ratio β/α = ¼ to where it is 20; x/β is what all paths share."""
    x, _ = points(6)
    ends = []
    for path in PATHS[:3]:
        field = PathTransformedField(oracle(LinearPath()), path)
        ratio = lambda s, p=path: p.beta(s) / p.alpha(s)
        angles = torch.atan(torch.tensor([0.25, 20.0], dtype=F64))
        times = bisection(ratio, torch.tan(torch.lerp(angles[:1], angles[1:], torch.linspace(0, 1, 17, dtype=F64))))
        begin = x * torch.hypot(path.alpha(times[0]), path.beta(times[0]))
        run = RK4().solve(Dynamics(field, Condition(), ZeroVolatility()), begin, times, torch.Generator())
        ends.append(run.end / path.beta(times[-1]))
    for end in ends[1:]:
        close(end, ends[0], rtol=1e-3, atol=1e-3)
    assert float((ends[0] - x).norm()) > 1


def test_fields_are_finite_at_both_ends_in_single_precision():
    x = points(4)[0].float()
    base = oracle(VariancePreservingPath())
    base.joint = type(base.joint)(*(v.float() for v in vars(base.joint).values()))
    for path in PATHS:
        for t in (0.0, 1e-6, 1 - 1e-6, 1.0):
            for value in PathTransformedField(base, path).velocity_and_score(x, torch.full((4,), t), Condition()):
                assert value.dtype == torch.float32 and bool(value.isfinite().all())


def test_bridges_and_paths_that_turn_back_are_refused():
    with pytest.raises(FlowportError, match="γ > 0"):
        PathTransformedField(oracle(LinearPath()), SmoothBridge())
    with pytest.raises(FlowportError, match="γ > 0"):
        PathTransformedField(oracle(SmoothBridge(), UnconditionedBridge()), LinearPath())
    with pytest.raises(FlowportError, match="β/α increases"):
        PathTransformedField(oracle(LinearPath()), FunctionsPath(lambda t: 1 - t / 2, lambda t: torch.sin(3 * t)))
