"""What a look at a tuning tells, where everything is known: one Gaussian and its exact tilts."""

import pytest
import torch
from torch import Tensor

from flowport.evaluation.tuning_view import TunedResults, TuningView
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.tilted_field import TiltedField
from flowport.modality import Plane
from flowport.randomness import Randomness
from flowport.reward import LinearReward, QuadraticReward, SumReward
from flowport.sampling.grid import UniformGrid
from flowport.sampling.sampler import Sampler
from flowport.sampling.solver import EulerMaruyama, Heun
from flowport.sampling.volatility import MemorylessVolatility, ZeroVolatility
from flowport.training.stop_rule import StopRule
from flowport.types import Pair, Sample
from tests.laws.tilts import F64, Difference, from_noise, mixture

MEAN, VARIANCE = 0.4, 0.6
ITEMS = 24


def gaussian(mean: float, variance: float):
    """The oracle from N(0, 1) to N(mean, variance)."""
    return from_noise(mixture([1.0], torch.tensor([[mean]], dtype=F64), torch.tensor([[[variance]]], dtype=F64)))


def tuned(mean: float, variance: float) -> TiltedField:
    return TiltedField(gaussian(MEAN, VARIANCE), Difference(gaussian(mean, variance)))


def view(steps: int = 5, sampling: int = 5) -> TuningView:
    start = torch.randn(ITEMS, 1, generator=torch.Generator().manual_seed(3), dtype=F64)
    sampler = Sampler(Heun(), UniformGrid(sampling), ZeroVolatility())
    pair = Pair(Sample(start), Sample(torch.zeros(ITEMS, 1, dtype=F64)))
    return TuningView(sampler, pair, Randomness(1), ConsistentDiscretisation(UniformGrid(steps)))


def kl(mean: float, variance: float) -> float:
    """KL(N(mean, variance) ‖ base)."""
    ratio = variance / VARIANCE
    return 0.5 * (ratio + (mean - MEAN) ** 2 / VARIANCE - 1 - float(torch.tensor(ratio).log()))


def test_a_linear_reward_moves_every_result_alike_and_costs_the_kl_of_its_tilt():
    """e^{λcx} moves N(m, v) to N(m + λcv, v): reward c² λ v more from every start, no diversity, KL λ²c²v/2."""
    strength, c = 1.5, 0.8
    goal = tuned(MEAN + strength * c * VARIANCE, VARIANCE)
    found = view(50, 10).results(goal, LinearReward([c])).numbers()
    assert found["gain"] == pytest.approx(c * c * strength * VARIANCE, rel=1e-3)
    assert found["gain_se"] < 1e-4 < found["reward_se"], "the same start and noise: what is won has no spread"
    assert found["reward"] - found["base_reward"] == pytest.approx(found["gain"])
    assert found["diversity_share"] == pytest.approx(1, abs=1e-3)
    assert found["energy"] == pytest.approx(kl(MEAN + strength * c * VARIANCE, VARIANCE), rel=0.04)
    assert found["energy"] == pytest.approx(strength**2 * c**2 * VARIANCE / 2, rel=0.04)


def test_a_quadratic_reward_narrows_the_results_by_a_known_share():
    """e^{−λqx²/2} makes of the variance v the variance 1/(1/v + λq); the sampler's map is affine, so each draw's is."""
    narrowed = 1 / (1 / VARIANCE + 2.5)
    mean = narrowed * MEAN / VARIANCE
    at = view(50, 10)
    results = at.results(tuned(mean, narrowed), QuadraticReward([0.0], 2.5))
    found = results.numbers()
    assert found["diversity_share"] == pytest.approx(narrowed / VARIANCE, rel=0.01)
    spread = float((results.tuned - results.tuned.mean()).square().sum() / (ITEMS - 1))
    assert found["diversity"] == pytest.approx(spread, rel=1e-9)
    error = found["energy_se"]
    assert 0 < error < 0.2 and abs(found["energy"] - kl(mean, narrowed)) < 3 * error + 0.02


def test_terms_are_told_apart_and_watched_ones_do_not_count():
    reward = SumReward(
        {"right": LinearReward([1.0]), "left": LinearReward([-2.0])}, weights={"right": 1.0, "left": 0.0}
    )
    found = view().results(tuned(MEAN + 0.3, VARIANCE), reward).numbers()
    assert found["gain"] == pytest.approx(0.3, abs=0.02)
    assert found["term_right_gain"] == pytest.approx(found["gain"])
    assert found["term_left_gain"] == pytest.approx(-2 * found["gain"])
    assert found["term_left"] == pytest.approx(-2 * found["reward"])
    assert found["base_term_left"] == pytest.approx(-2 * found["base_reward"])


def test_looks_are_alike_and_the_base_is_translated_once():
    at, field = view(), tuned(MEAN + 0.3, VARIANCE)
    first, second = (at.results(field, LinearReward([1.0])) for _ in range(2))
    assert first.base is second.base
    assert torch.equal(first.tuned, second.tuned) and torch.equal(first.energy, second.energy)


def test_base_and_tuned_flow_see_the_same_noise():
    """By a sampler that draws its own, a flow that is tuned to its base's law wins nothing from any start."""
    at = view()
    at.sampler = Sampler(EulerMaruyama(), UniformGrid(6), MemorylessVolatility())
    found = at.results(tuned(MEAN, VARIANCE), LinearReward([1.0]))
    torch.testing.assert_close(found.tuned, found.base)
    assert found.numbers()["gain_se"] < 1e-9


def test_the_sheet_has_starts_base_and_tuned_results(tmp_path):
    at = view()
    picture = at.draw(
        at.results(tuned(MEAN + 0.3, VARIANCE), LinearReward([1.0])), Plane(), tmp_path / "watch" / "000007.png"
    )
    assert (tmp_path / "watch" / "000007.png").is_file() and picture.shape[2] == 3 * 260


def seen(energy: Tensor, change: Tensor) -> TunedResults:
    """Results whose watched term ``kept`` has changed so."""
    x, zero = torch.zeros(len(change), 1), torch.zeros(len(change))
    return TunedResults(x, x, {"reward": (zero, zero + 1), "term_kept": (zero + 5, 5 + change)}, energy)


@pytest.mark.parametrize(
    ("energy", "change", "broken"),
    [
        ([1.75, 2.0], [0.0, 0.0], None),
        ([1.75, 2.25], [0.0, 0.0], "energy"),  # it reaches the budget
        ([9.0, 0.0], [0.0, 0.0], "energy"),
        ([float("nan"), 0.0], [0.0, 0.0], "energy"),
        ([0.0, 0.0], [-1.0, -1.2], "watched.kept"),  # −1.1 ± 0.1
        ([0.0, 0.0], [-1.0, 0.9], None),  # −0.05 ± 0.95
        ([0.0, 0.0], [1.0, 1.2], None),
        ([0.0, 0.0], [-3.0, 0.5], None),  # −1.25 ± 1.75
        ([0.0, 0.0], [-2.2, -0.4], None),  # −1.3 ± 0.9: within two standard errors
        ([0.0, 0.0], [-2.2, -0.8], "watched.kept"),  # −1.5 ± 0.7
        ([9.0, 9.0], [-2.2, -0.8], "energy"),
    ],
)
def test_a_rule_stops_at_its_budget_and_where_a_watched_reward_falls(energy, change, broken):
    rule = StopRule(2.0, {"kept": 2.0})
    assert rule.broken(seen(torch.tensor(energy), torch.tensor(change))) == broken
    assert StopRule().broken(seen(torch.tensor(energy), torch.tensor(change))) is None


def test_a_rule_may_watch_the_reward_itself_and_names_what_it_cannot():
    results = seen(torch.zeros(2), torch.zeros(2))
    assert StopRule(watched={"reward": 1.0}).broken(results) is None
    back = TunedResults(results.base, results.tuned, {"reward": (torch.ones(2), torch.zeros(2))}, results.energy)
    assert StopRule(watched={"reward": 1.0}).broken(back) == "watched.reward"
    with pytest.raises(ValueError, match=r"stop.watched.legible is no term .* choose reward or kept"):
        StopRule(watched={"legible": 2.0}).check(["kept"])
    with pytest.raises(ValueError, match=r"stop.watched.kept=0.* too small"):
        StopRule(watched={"kept": 0.0})


def test_two_standard_errors_of_the_diversity_cover_the_variance():
    """Results N(0, I) and, from the same noise in part, N(0, diag(.25, 1)): .625 of the base's variance."""
    inside, zero = torch.zeros(2), {"reward": (torch.zeros(64), torch.zeros(64))}
    for seed in range(200):
        base, own = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)
        tuned = torch.stack([0.5 * base[:, 0], own[:, 1]], 1)
        found = TunedResults(base, tuned, zero, torch.zeros(64)).numbers()
        errors = [abs(found[name] - 0.625) / found[f"{name}_se"] for name in ("diversity", "diversity_share")]
        inside += torch.tensor([error <= 2 for error in errors])
    assert (inside >= 0.88 * 200).all() and (inside < 200).all(), inside
