"""A flow on another path: the same law at every ratio of the weights, the same ends."""

from itertools import permutations

import pytest
import torch

from flowport.capabilities import BlindBridge, NoNoise, SourceIsNoise
from flowport.dynamics import Dynamics
from flowport.errors import Refusal
from flowport.field import Transported
from flowport.inversion import inverse
from flowport.path import Functions, Linear, Polynomial, SmoothBridge, Trigonometric, VarianceExploding
from flowport.path import VariancePreserving as VP
from flowport.prediction import Source, Velocity
from flowport.shapes import Condition
from flowport.solver import RK4
from flowport.volatility import Zero
from tests.laws.oracles import F64, Composition, points

PATHS = [Linear(), Trigonometric(), VarianceExploding(), Polynomial(), VP()]
NAMES = [type(path).__name__ for path in PATHS]
close = torch.testing.assert_close
T = torch.linspace(0.1, 0.95, 12, dtype=F64)


def oracle(path, role=None, prediction=None):
    c = Composition(path, role or SourceIsNoise(), prediction or Velocity())
    return c.field(c.joint("mixture"))


PAIRS = {"argvalues": list(permutations(PATHS, 2)), "ids": ["-".join(names) for names in permutations(NAMES, 2)]}


@pytest.mark.parametrize(("own", "other"), **PAIRS)
def test_velocity_and_score_are_those_of_the_other_path(own, other):
    x, _ = points(12)
    t = inverse(lambda s: other.beta(s) / other.alpha(s), torch.logspace(-1, 1, 12, dtype=F64), 1e-9, 1 - 1e-9)
    found = Transported(oracle(own, prediction=Source()), other).velocity_and_score(x, t, Condition())
    for value, wanted in zip(found, oracle(other).velocity_and_score(x, t, Condition()), strict=True):
        close(value, wanted, rtol=1e-9, atol=1e-9)


def test_any_source_and_coupling_will_do():
    x, _ = points(12)
    found = Transported(oracle(Linear(), NoNoise()), Trigonometric()).velocity(x, T, Condition())
    close(found, oracle(Trigonometric(), NoNoise()).velocity(x, T, Condition()), rtol=1e-9, atol=1e-9)


def test_the_ode_has_the_same_ends_on_every_path():
    """From one point at ratio β/α = ¼ to where it is 20; x/β is what all paths share."""
    x, _ = points(6)
    ends = []
    for path in PATHS[:3]:
        field = Transported(oracle(Linear()), path)
        ratio = lambda s, p=path: p.beta(s) / p.alpha(s)
        angles = torch.atan(torch.tensor([0.25, 20.0], dtype=F64))
        times = inverse(ratio, torch.tan(torch.lerp(angles[:1], angles[1:], torch.linspace(0, 1, 17, dtype=F64))))
        begin = x * torch.hypot(path.alpha(times[0]), path.beta(times[0]))
        run = RK4().solve(Dynamics(field, Condition(), Zero()), begin, times, torch.Generator())
        ends.append(run.end / path.beta(times[-1]))
    for end in ends[1:]:
        close(end, ends[0], rtol=1e-3, atol=1e-3)
    assert float((ends[0] - x).norm()) > 1


def test_fields_are_finite_at_both_ends_in_single_precision():
    x = points(4)[0].float()
    base = oracle(VP())
    base.joint = type(base.joint)(*(v.float() for v in vars(base.joint).values()))
    for path in PATHS:
        for t in (0.0, 1e-6, 1 - 1e-6, 1.0):
            for value in Transported(base, path).velocity_and_score(x, torch.full((4,), t), Condition()):
                assert value.dtype == torch.float32 and bool(value.isfinite().all())


def test_bridges_and_paths_that_turn_back_are_refused():
    with pytest.raises(Refusal, match="γ > 0"):
        Transported(oracle(Linear()), SmoothBridge())
    with pytest.raises(Refusal, match="γ > 0"):
        Transported(oracle(SmoothBridge(), BlindBridge()), Linear())
    with pytest.raises(Refusal, match="β/α increases"):
        Transported(oracle(Linear()), Functions(lambda t: 1 - t / 2, lambda t: torch.sin(3 * t)))
