"""The judge finds no fault with the exact tilt, and every fault with a wrong one."""

from functools import cache

import pytest
import torch

from flowport.distribution import Moons
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.tilted_field import TiltedField
from flowport.problem import BridgeProblem, NoiseProblem, Problem
from flowport.problem.arena import exact, score
from flowport.problem.arena.score import KnownAdapter, adjoint_sees, velocity_error
from flowport.sampling.grid import PowerGrid

PARTS = {
    "weights": [0.6, 0.4],
    "means": [[-1.5, 0.0], [1.5, 0.5]],
    "deviations": [[0.6, 0.4], [0.5, 0.7]],
    "turns": [0.4, 0.0],
    "c": [0.6, 0.3],
}
PROBLEMS = {
    "noise": lambda: NoiseProblem(**PARTS, q=[[0.4, 0.1], [0.1, 0.2]]),
    "bridge": lambda: BridgeProblem(Moons(), **PARTS),
}
POINTS = 2048


def made(name: str) -> Problem:
    """With a coarse sampler and chain."""
    problem = PROBLEMS[name]()
    solver, _, volatility = problem.sampler
    problem.sampler, problem.discretisation = (
        (solver, PowerGrid(24, 1.5), volatility),
        ConsistentDiscretisation(PowerGrid(32, 1.5)),
    )
    return problem


@cache
def judged(name: str, strength: float) -> dict[str, float]:
    """The exact tilt at a strength, judged as if 1 had been wanted."""
    problem = made(name)
    return score(exact(problem, strength), problem, 1.0, torch.Generator().manual_seed(0), POINTS, 512)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_exact_tilt_has_no_error(name: str) -> None:
    found, n = judged(name, 1.0), POINTS / PROBLEMS[name]().groups
    assert found["velocity_error"] < 1e-10
    assert found["weight_error"] < 3.5 * (0.25 / n) ** 0.5
    assert found["mean_error"] < 0.12
    assert found["w2"] < 2 * found["w2_floor"]
    assert found["kl_to_tilt"] == pytest.approx(0, abs=0.03)
    assert found["kl"] == pytest.approx(found["exact_kl"], abs=0.05)
    assert found["energy"] == pytest.approx(found["exact_kl"], abs=0.05)
    for reward in ("reward", "sampled_reward"):
        assert found[reward] == pytest.approx(found["exact_reward"], abs=0.08)
    assert found["frontier_reward"] == pytest.approx(found["reward"], abs=0.03)
    if name == "noise":
        assert found["chain_weight_error"] < 3.5 * (0.25 / n) ** 0.5
        assert found["chain_w2"] < 2 * found["w2_floor"]
        assert found["own_weight_error"] < 5 * (0.25 / n) ** 0.5, "two samples, one of them weighted"
        assert found["own_effective"] == pytest.approx(1, abs=0.06), "S = λr − log Z on every path, up to O(h)"
        assert found["law_kl_to_tilt"] == pytest.approx(0, abs=0.003), "of the results' own density: no noise, only h²"
        assert found["law_frontier_reward"] == pytest.approx(found["law_reward"], abs=0.02)


@pytest.mark.parametrize(("name", "wrong"), [("noise", -1.0), ("noise", 0.5), ("bridge", -1.0)])
def test_a_wrong_sign_and_half_the_strength_are_seen_by_every_number(name: str, wrong: float) -> None:
    """kl_to_tilt of the tilt at a is log Z(1) − log Z(a) + (a − 1) E_a r."""
    found, problem = judged(name, wrong), PROBLEMS[name]()
    start = problem.scored_starts(problem.groups, torch.Generator().manual_seed(0))
    log_z = [problem.tilt(s, start)[1].mean() for s in (1.0, wrong)]
    reward = problem.frontier(torch.tensor([wrong]), start)[1]
    assert found["kl_to_tilt"] == pytest.approx(float(log_z[0] - log_z[1] + (wrong - 1) * reward), rel=0.2)
    if name == "noise":
        assert found["law_kl_to_tilt"] == pytest.approx(float(log_z[0] - log_z[1] + (wrong - 1) * reward), rel=0.2)
        assert found["law_reward"] < found["exact_reward"] - 0.15
        assert found["law_frontier_reward"] - found["law_reward"] == pytest.approx(0, abs=0.02) or wrong < 0
    assert found["velocity_error"] > (2 if wrong < 0 else 0.15)
    assert found["weight_error"] > 0.08
    assert found["mean_error"] > 0.4
    assert found["reward"] < found["exact_reward"] - 0.15


def test_half_the_strength_lies_on_the_frontier_and_a_wrong_sign_far_below() -> None:
    found = judged("noise", 0.5)
    assert found["frontier_reward"] == pytest.approx(found["reward"], abs=0.04)
    assert judged("noise", -1.0)["reward"] < found["base_reward"] < found["frontier_reward"]


def test_a_chain_weighted_by_its_own_paths_tells_the_tilt_of_the_base_that_was_tuned() -> None:
    half, noise = judged("noise", 0.5), 5 * (0.25 / POINTS) ** 0.5
    assert half["chain_weight_error"] > 2 * noise
    assert half["own_weight_error"] == pytest.approx(half["weight_error"], abs=noise), "weights mend half the strength"
    problem = made("noise")
    other = NoiseProblem(**{**PARTS, "weights": [0.3, 0.7]}, q=[[0.4, 0.1], [0.1, 0.2]])
    tuned = TiltedField(other.base, KnownAdapter(other.tilted(1.0)))
    found = score(tuned, problem, 1.0, torch.Generator().manual_seed(0), POINTS, 512)
    assert found["weight_error"] > 2 * noise > 2 * found["own_weight_error"], "the base was wrong, not the tuning"


def test_the_base_has_velocity_error_one_and_no_kl() -> None:
    problem = made("noise")
    untuned = TiltedField(problem.base, KnownAdapter(problem.base))
    generator = torch.Generator().manual_seed(0)
    assert velocity_error(untuned, problem, 1.0, generator) == pytest.approx(1)
    found = score(untuned, problem, 1.0, generator, POINTS, 256)
    assert found["kl"] == pytest.approx(0, abs=1e-4)
    assert found["weight_error"] > 0.08


def test_the_adjoint_sees_a_gaussian_and_not_across_gaps() -> None:
    """Linear reward, one Gaussian: the lean adjoint is ∇ log h itself, without noise."""
    generator = torch.Generator().manual_seed(0)
    one = adjoint_sees(NoiseProblem([1.0], [[0.5]], [1.0, 0.6], 0.3, [0.8, 0.4]), 1.0, generator, 256)
    assert one["slope"] == pytest.approx(1, abs=0.07)
    assert one["signal"] > 100
    means, spread = [[-2, -1], [1.5, -1.5], [-0.5, 2], [2.5, 1.5]], [[0.6, 0.3], [0.5, 0.25], [0.7, 0.3], [0.35, 0.35]]
    far = NoiseProblem([0.4, 0.3, 0.2, 0.1], means, spread, [0.5, -0.4, 1.2, 0.0], [0.5, 0.4])
    assert adjoint_sees(far, 1.0, generator, 512)["signal"] < 0.3
