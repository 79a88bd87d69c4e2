"""Tilts and frontiers against sums over fine grids, which know nothing of Gaussian algebra."""

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from flowport.distribution import Gaussian, Moons
from flowport.distribution.mixture import GaussianComponents
from flowport.errors import FlowportError
from flowport.problem import BridgeProblem, MixtureLaw, NoiseProblem, Problem
from flowport.problem.base import covariances
from flowport.types import Condition
from tests.runs import ROOT

F64 = torch.float64
C, Q = torch.tensor([0.7, -0.4], dtype=F64), torch.tensor([[0.5, 0.1], [0.1, -0.2]], dtype=F64)
NAMES = sorted(p.stem for p in (ROOT / "configs" / "problem").glob("*.yaml"))


def problem(name: str, *words: str) -> Problem:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        made = instantiate(compose("arena", [f"problem={name}", *words]).problem)
    assert isinstance(made, Problem)
    return made


def plane() -> tuple[Tensor, float]:
    """Grid points (n, 2) of [−9, 9]² and the area of each."""
    line = torch.linspace(-9, 9, 401, dtype=F64)
    return torch.cartesian_prod(line, line), float(line[1] - line[0]) ** 2


def mixture() -> tuple[GaussianComponents, MixtureLaw]:
    s = covariances(torch.tensor([[0.6, 0.3], [0.5, 0.8]], dtype=F64), torch.tensor([0.5, -0.4], dtype=F64))
    components = GaussianComponents.of([0.7, 0.3], [[-1.0, 0.5], [1.5, -0.5]], s, F64)
    return components, MixtureLaw.of(components)


def reward(x: Tensor, c: Tensor = C, q: Tensor = Q) -> Tensor:
    return x @ c - 0.5 * ((x @ q) * x).sum(1)


def test_tilt_normalisation_and_reward_are_those_of_a_grid() -> None:
    components, law = mixture()
    x, area = plane()
    mass = (components.log_prob(x) + reward(x)).exp() * area
    tilted, log_z = law.tilted(C, Q)
    assert torch.allclose(log_z, mass.sum().log(), atol=1e-8)
    assert torch.allclose(tilted.log_prob(x).exp() * area, mass / mass.sum(), atol=1e-10)
    assert torch.allclose(tilted.reward(C, Q), (mass * reward(x)).sum() / mass.sum(), atol=1e-8)
    assert torch.allclose(tilted.mean[0], (mass[:, None] * x).sum(0) / mass.sum(), atol=1e-8)


@pytest.mark.parametrize("name", ["mild_quadratic", "bridge_gaussian", "bridge_moons"])
def test_frontier_is_the_kl_and_reward_of_the_tilt_on_a_grid(name: str) -> None:
    made, strength = problem(name), 0.8
    start = made.scored_starts(4, torch.Generator().manual_seed(0))
    x, area = plane()
    kls, rewards = [], []
    for one in start:
        law = made.base_law(one[None])
        log = GaussianComponents.of(law.weights[0], law.means[0], law.covariances, F64).log_prob(x)
        value = made.reward(x, Condition())
        tilt = (log + strength * value).softmax(0)
        kls.append((tilt * (tilt.log() - log - torch.tensor(area, dtype=F64).log())).nansum())
        rewards.append((tilt * value).sum())
    kl, mean = made.frontier(torch.tensor([0.0, strength]), start)
    assert torch.allclose(kl[1], torch.stack(kls).mean(), atol=1e-6)
    assert torch.allclose(mean[1], torch.stack(rewards).mean(), atol=1e-6)
    assert float(kl[0]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_frontier_rises_with_the_slope_one_over_the_strength(name: str) -> None:
    """d KL = λ d E r along the tilts: the price of reward is the strength."""
    made, strengths = problem(name), torch.tensor([0.699, 0.701], dtype=F64)
    kl, mean = made.frontier(strengths, made.scored_starts(8, torch.Generator().manual_seed(0)))
    assert float((kl[1] - kl[0]) / (mean[1] - mean[0])) == pytest.approx(0.7, rel=1e-4)


def test_points_follow_their_law_and_know_their_component() -> None:
    _, law = mixture()
    x = law.draw(40_000, torch.Generator().manual_seed(0))
    assert torch.allclose(x.mean(0), law.mean[0], atol=0.02)
    second = law.covariances + law.means[0][:, :, None] * law.means[0][:, None]
    assert torch.allclose(x.T @ x / len(x), (law.weights[0][:, None, None] * second).sum(0), atol=0.04)
    assert torch.allclose(law.posterior(x).mean(0), law.weights[0], atol=0.01)


def test_a_law_of_every_row_is_drawn_row_by_row() -> None:
    means = torch.tensor([[[-50.0], [-40.0]], [[40.0], [50.0]]], dtype=F64)
    laws = MixtureLaw(
        torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]], dtype=F64), means, torch.ones(2, 1, 1, dtype=F64)
    )
    x = laws.draw(2, torch.Generator().manual_seed(0))
    assert torch.allclose(x[:, 0], torch.tensor([-50.0, 50.0], dtype=F64), atol=5)


def test_turns_are_those_of_the_plane_and_keep_the_deviations() -> None:
    s = torch.tensor([[0.6, 0.3]], dtype=F64)
    quarter = covariances(s, torch.tensor([torch.pi / 2], dtype=F64))
    assert torch.allclose(quarter, torch.diag(torch.tensor([0.09, 0.36], dtype=F64))[None])
    eighth = covariances(s, torch.tensor([torch.pi / 4], dtype=F64))[0]
    assert float(eighth[0, 1]) > 0, "the long axis turns against the clock"
    many = torch.linspace(0.3, 0.6, 16, dtype=F64)[None]
    found = torch.linalg.eigvalsh(covariances(many, torch.tensor([0.8], dtype=F64)))
    assert torch.allclose(found, many**2)


def _flat(**words: Any) -> dict[str, Any]:
    return {"weights": [1.0], "means": [[0.0]], "deviations": [1.0, 1.0], "turns": 0.0, "c": [1.0], **words}


def test_refusals() -> None:
    with pytest.raises(FlowportError, match="c has 3 numbers, but the problem's points have 2"):
        NoiseProblem(**_flat(c=[1, 2, 3]))
    with pytest.raises(FlowportError, match="means has 3 numbers in a row, but the problem's points have 2"):
        NoiseProblem(**_flat(means=[[1, 2, 3]]))
    with pytest.raises(FlowportError, match="calls is 0; it must be positive"):
        NoiseProblem(**_flat(calls=0))
    with pytest.raises(FlowportError, match=r"correlation=0\.5 needs .* a Gaussian source"):
        BridgeProblem(Moons(), **_flat(correlation=0.5))
    with pytest.raises(FlowportError, match=r"correlation=1\.0 needs"):
        BridgeProblem(Gaussian(), **_flat(correlation=1.0))
