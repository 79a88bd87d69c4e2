"""Euler's method with few steps, where its result is known in closed form."""

import pytest
import torch

from flowport.cost.chamfer import chamfer_of_pairs
from flowport.distribution import Digits, Torus
from flowport.errors import FlowportError
from flowport.metric import FewSteps, Straightness
from flowport.types import Sample
from tests.metric.outcomes import outcome_of

SPIN = 2.0


def clouds(n: int = 12, seed: int = 0) -> torch.Tensor:
    return Torus(32).sample(n, torch.Generator().manual_seed(seed)).x.double()


def measured(metric, velocity, result, states):
    kept = {k: Sample(clouds(seed=s)) for s, k in enumerate(("source", "target", "floor"))}
    metric.update(outcome_of(result=result, states=states, velocity=velocity, **kept))
    return metric.compute()


def test_a_straight_flow_of_constant_speed_loses_nothing():
    x, v = clouds(), torch.randn(12, 3, 32, dtype=torch.float64)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    states = torch.stack([x + t * v for t in times])
    for metric, name in ((FewSteps(), "few_chamfer"), (FewSteps(1), "few_chamfer"), (Straightness(), "straightness")):
        found = measured(metric, lambda x, t: v, x + v, states)
        assert abs(float(found[name])) < 1e-9
        assert name != "few_chamfer" or 0 <= float(found["few_nna"]) <= 1


@pytest.mark.parametrize("steps", [1, 8])
def test_a_turning_flow_misses_by_what_euler_misses(steps):
    """v = ω J x turns by ω; k Euler steps multiply by (1 + iω/k)^k."""
    x, spin = clouds(), torch.tensor([[0, -SPIN, 0], [SPIN, 0, 0], [0, 0, 0]]).double()
    whole = torch.matrix_exp(spin) @ x
    few = torch.linalg.matrix_power(torch.eye(3) + spin / steps, steps) @ x
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    states = torch.stack([torch.matrix_exp(t * spin) @ x for t in times])
    found = measured(FewSteps(steps), lambda x, t: spin @ x, whole, states)
    assert float(found["few_chamfer"]) == pytest.approx(float(chamfer_of_pairs(few, whole).mean()), rel=1e-9)
    same = measured(FewSteps(steps), lambda x, t: spin @ x, few, states)
    assert float(same["few_nna"]) == float(found["few_nna"]), "few_nna is of the few steps, not of the result"


def test_time_runs_from_the_first_to_the_last():
    """v = 2 t e: Euler's sum of 2 t over k left ends is 1 − 1/k, whatever the grid of the translation."""
    x, states = clouds(), torch.stack([clouds()] * 5)
    found = measured(FewSteps(4), lambda x, t: 2 * t[:, None, None] * torch.ones_like(x), x + 1 - 1 / 4, states)
    assert abs(float(found["few_chamfer"])) < 1e-9
    assert {"few_nna", "few_nna_floor", "few_n"} <= found.keys() and "few_nna_untranslated" not in found


def test_refusals():
    with pytest.raises(FlowportError, match="at least 1"):
        FewSteps(0)
    with pytest.raises(FlowportError, match="is for clouds"):
        FewSteps().check(Torus(), Digits())
    with pytest.raises(FlowportError, match="needs the velocity"):
        FewSteps().update(outcome_of(velocity=None))
