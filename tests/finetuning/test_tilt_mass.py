"""Tilts without a finite mass are refused or said; those with one are not."""

import logging
import math

import pytest
import torch

from flowport.distribution import EightGaussians, Gaussian, Mixture
from flowport.errors import FlowportError
from flowport.finetuning.tilt_mass import curvature, growth, largest_strength, require_mass, require_range, warn_of_mass
from flowport.problem import MixtureLaw, NoiseProblem
from flowport.reward import DistanceReward, LinearReward, PlainReward, QuadraticReward, Reward, SumReward

F64 = torch.float64
NARROW = [[1.0, 0.3], [0.3, 0.5]]
CONVEX = [[-0.6, 0.2], [0.2, 0.4]]
BOWLED = QuadraticReward([0.0, 0.0], CONVEX)


def mass(strength: float, size: float) -> float:
    """∫ over |x|∞ ≤ size of N(x; 0, S) e^{λr}, by a sum over a grid that knows no Gaussian algebra."""
    line = torch.linspace(-size, size, 801, dtype=F64)
    x = torch.cartesian_prod(line, line)
    s, q = torch.tensor(NARROW, dtype=F64), torch.tensor(CONVEX, dtype=F64)
    log = -0.5 * ((x @ s.inverse()) * x).sum(1) - 0.5 * strength * ((x @ q) * x).sum(1)
    return float(log.exp().sum() * (line[1] - line[0]) ** 2)


def test_the_largest_strength_is_that_from_which_the_mass_grows_with_the_plane() -> None:
    limit = largest_strength(torch.tensor(NARROW, dtype=F64)[None], torch.tensor(CONVEX, dtype=F64))
    assert mass(0.8 * limit, 20) == pytest.approx(mass(0.8 * limit, 40), rel=0.05)
    assert mass(1.2 * limit, 40) > 1e6 * mass(1.2 * limit, 20)
    wide = torch.stack([torch.eye(2, dtype=F64), 4 * torch.eye(2, dtype=F64)])
    assert largest_strength(wide, -0.5 * torch.eye(2, dtype=F64)) == pytest.approx(0.5), "the widest component decides"
    assert largest_strength(wide, torch.eye(2, dtype=F64)) == math.inf


@pytest.mark.parametrize(
    ("reward", "q"),
    [
        (LinearReward([3.0, 1.0]), [[0.0, 0.0], [0.0, 0.0]]),
        (QuadraticReward([0.0, 0.0], CONVEX), CONVEX),
        (DistanceReward([1.0, 2.0]), [[2.0, 0.0], [0.0, 2.0]]),
        (
            SumReward(
                {"q": QuadraticReward([0.0, 0.0], CONVEX), "d": DistanceReward([1.0, 2.0])}, {"q": 2.0, "d": -0.5}
            ),
            [[-2.2, 0.4], [0.4, -0.2]],
        ),
        (
            SumReward({"q": LinearReward([0.0, 0.0]), "f": lambda x: x[:, 0]}, {"q": 2.0, "f": 0.0}),
            [[0.0, 0.0], [0.0, 0.0]],
        ),
        (SumReward({"q": LinearReward([0.0, 0.0]), "f": lambda x: x[:, 0]}, {"q": 2.0, "f": 1.0}), None),
        (PlainReward(lambda x: x[:, 0]), None),
    ],
)
def test_the_matrix_of_a_reward_is_minus_its_hessian(reward: Reward, q: list[list[float]] | None) -> None:
    found = curvature(reward)
    assert found is None if q is None else torch.allclose(found, torch.tensor(q, dtype=F64))


@pytest.mark.parametrize(
    "target", [Gaussian(2, covariance=2.0), Mixture([0.5, 0.5], [[0.0, 0.0], [3.0, 1.0]], [0.5, 2.0])]
)
def test_a_tilt_beyond_the_limit_is_refused_with_the_limit(target: Gaussian | Mixture) -> None:
    reward = QuadraticReward([1.0, 0.0], [[-1.0, 0.0], [0.0, 1.0]])
    require_mass(reward, 0.49, target)
    for strength in (0.5, 0.6, 10.0):
        with pytest.raises(FlowportError, match=r"no finite mass, because reward=quadratic .* strengths below 0\.5"):
            require_mass(reward, strength, target)
    require_mass(LinearReward([5.0, 5.0]), 100.0, target)


BOWL: list[tuple[str, object, float | None]] = [
    ("bowl", lambda x: 0.5 * x.square().sum(1), 1.0),
    ("saddle", lambda x: x[:, 0] * x[:, 1], 1.0),
    ("along", lambda x: 0.5 * (x[:, 0] + x[:, 1]).square(), 2.0),
    ("away", lambda x: -x.square().sum(1), -2.0),
    ("linear", lambda x: 50 * x[:, 0], 0.0),
    ("bounded", lambda x: x.sin().sum(1), 0.0),
    ("network", lambda x: torch.nn.functional.relu(x @ torch.ones(2, 3, dtype=x.dtype)).sum(1), 0.0),
    ("cubic", lambda x: x[:, 0] ** 3, 1e3),
    ("steps", lambda x: x.round()[:, 0].detach(), None),
]


@pytest.mark.parametrize(("function", "expected"), [b[1:] for b in BOWL], ids=[b[0] for b in BOWL])
def test_the_growth_of_a_black_box_is_that_of_its_leading_square(function: object, expected: float | None) -> None:
    """Of points with the covariance I: the largest eigenvalue of the Hessian, and 0 for slower growth."""
    target = Gaussian(2, mean=[0.3, -0.2])
    reward = PlainReward(function)  # type: ignore[arg-type]
    reward.check(target, target)
    found = growth(reward, target.sample(200_000, torch.Generator().manual_seed(0)).x.double())
    if expected is None:
        assert found is None
    elif expected < 100:
        assert found == pytest.approx(expected, abs=0.03)
    else:
        assert found is not None and found > expected


def test_what_may_have_no_mass_is_said_and_what_has_one_is_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not warn_of_mass(PlainReward(lambda x: 0.5 * x.square().sum(1)), 0.02, EightGaussians())
        assert not warn_of_mass(LinearReward([3.0, 3.0]), 50.0, EightGaussians())
        assert not warn_of_mass(PlainReward(lambda x, condition: x[:, 0] * condition.label), 50.0, EightGaussians())
        assert not caplog.records
        assert warn_of_mass(PlainReward(lambda x: x.square().sum(1)), 50.0, EightGaussians())
    assert "may have no finite mass" in caplog.text and "use a strength below" in caplog.text


def test_results_that_have_left_the_data_are_refused() -> None:
    data = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    require_range(100 * data, data, 1.0)
    with pytest.raises(FlowportError, match=r"left the range .* at strength=3 the tilt .* no finite"):
        require_range(2000 * data, data, 3.0)


def law() -> MixtureLaw:
    return MixtureLaw(
        torch.zeros(1, 1, dtype=F64), torch.zeros(1, 1, 2, dtype=F64), torch.tensor(NARROW, dtype=F64)[None]
    )


def test_the_closed_form_of_a_problem_refuses_what_has_no_mass() -> None:
    q, c = torch.tensor(CONVEX, dtype=F64), torch.zeros(2, dtype=F64)
    limit = largest_strength(law().covariances, q)
    tilted, log_z = law().tilted(c, 0.99 * limit * q)
    assert bool(log_z.isfinite().all() and tilted.covariances.isfinite().all())
    with pytest.raises(FlowportError, match=r"no finite mass: .* below 0\.5 of this strength"):
        law().tilted(c, 2 * limit * q)


def test_a_frontier_ends_where_tilts_end() -> None:
    problem = NoiseProblem([1.0], [[0.0]], [1.0, 1.0], 0.0, [1.0], [[-0.5, 0.0], [0.0, 0.0]])
    start = problem.scored_starts(4, torch.Generator().manual_seed(0))
    kl, reward = problem.frontier(torch.tensor([0.0, 1.0, 1.9, 2.0, 5.0], dtype=F64), start)
    assert len(kl) == len(reward) == 3 and bool(torch.cat([kl, reward]).isfinite().all())
    assert bool((kl.diff() > 0).all() and (reward.diff() > 0).all())
    with pytest.raises(FlowportError, match=r"strength=3 has no tilt in this problem, .* use a strength below 2"):
        problem.frontier(torch.tensor([3.0]), start)
