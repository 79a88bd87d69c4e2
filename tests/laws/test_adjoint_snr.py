"""The adjoint's signal and slope: laws of the estimates and of their errors, and when they alarm."""

import pytest
import torch

from flowport.field import AnalyticField
from flowport.finetuning.adjoint_snr import AdjointSNR, Measured, adjoint_snr, ratio
from flowport.path import BrownianBridge
from flowport.reward import LinearReward, QuadraticReward, Reward
from flowport.types import Pair, Sample
from tests.laws.oracles import line
from tests.laws.test_path_weights import MEANS, WEIGHTS, covariances
from tests.laws.tilts import F64, from_noise, given_start, mixture

S2, C = 0.49, 1.0
INDEFINITE = QuadraticReward([0.3] * 8, [[0.3 * (-1) ** i * (i == j) for j in range(8)] for i in range(8)])


def seen(base: AnalyticField, reward: Reward, d: int, seed: int, **options: object) -> AdjointSNR:
    generator = torch.Generator().manual_seed(seed)
    x0 = Sample(torch.randn(16, d, dtype=F64, generator=generator))
    return adjoint_snr(base, reward, 1.0, Pair(x0, x0), generator, 64, **options)  # type: ignore[arg-type]


def gaussian(d: int) -> AnalyticField:
    spread = torch.diag(torch.linspace(0.6, 0.95, d, dtype=F64) ** 2)
    return from_noise(mixture([1.0], torch.full((1, d), 0.3, dtype=F64), spread[None]))


def test_a_linear_reward_of_a_gaussian_has_an_adjoint_without_noise() -> None:
    found = seen(from_noise(line([(1, 0, 1, 1, S2, 0)])), LinearReward([C]), 1, 0)
    assert found.clear and found.least.value > 1e6 and "sees the answer" in found.sentence()
    known = [s for s in found.slopes if not s.withheld]
    assert known and all(abs(s.value - 1) < 0.1 + 3 * s.error for s in known)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_no_alarm_where_adjoint_matching_is_excellent(seed: int) -> None:
    """Eight dimensions, one Gaussian, an indefinite quadratic reward."""
    found = seen(gaussian(8), INDEFINITE, 8, seed)
    assert not found.alarming, found.sentence()
    assert found.least.value > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_an_alarm_where_modes_lie_apart(seed: int) -> None:
    hard = from_noise(mixture(WEIGHTS, MEANS, covariances()))
    found = seen(hard, QuadraticReward([0.6, 0.3], [[0.5, 0.1], [0.1, 0.3]]), 2, seed)
    assert found.blind and "cannot see" in found.sentence("method=x")
    assert found.sentence("method=x").endswith("use method=x")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_alarm_on_a_bridge_whose_results_vary_as_one_gaussian(seed: int) -> None:
    bridge = given_start(line([(1, 2.0, 1, 0.25, S2, 0.1)]), BrownianBridge(0.8))
    generator = torch.Generator().manual_seed(seed)
    x0 = Sample(2 + 0.5 * torch.randn(16, 1, dtype=F64, generator=generator))
    found = adjoint_snr(bridge, LinearReward([C]), 1.0, Pair(x0, x0), generator, 64)
    assert not found.alarming, found.sentence()


@pytest.mark.parametrize(
    ("groups", "inflated"), [(1, (48 / 45) ** 0.5), (12, (12 / 9) ** 0.5)], ids=["noise", "bridge"]
)
def test_the_error_of_a_ratio_is_that_of_repeated_draws(groups: int, inflated: float) -> None:
    """48 states, or 12 starts of four states that are alike: the stated error is the spread over repetitions."""
    generator, values, errors = torch.Generator().manual_seed(0), [], []
    w = torch.full((48,), 1 / 48, dtype=F64)
    for _ in range(400):
        shared = torch.randn(12, 1, generator=generator, dtype=F64).expand(12, 4).reshape(-1)
        own = torch.randn(48, 2, generator=generator, dtype=F64)
        one = ratio(w, 2 + own[:, 0] + (shared if groups > 1 else 0), 1 + 0.1 * own[:, 1], groups)
        values.append(one.value)
        errors.append(one.error)
    stated = torch.tensor(errors).square().mean().sqrt() / torch.tensor(values).std()
    assert float(stated) == pytest.approx(inflated, rel=0.1)


def test_pieces_of_states_measure_the_same_thing() -> None:
    base = from_noise(line([(1, 0, 1, 1, S2, 0)]))
    found = seen(base, LinearReward([C]), 1, 0, rows=200, at=(0.5,))
    assert found.clear and len(found.times) == 1


def test_the_signal_alone_is_measured_without_slopes() -> None:
    found = seen(gaussian(8), INDEFINITE, 8, 3, slopes=False, at=(0.5,))
    both = seen(gaussian(8), INDEFINITE, 8, 3, at=(0.5,))
    assert found.slopes[0].withheld and found.signals[0].value == pytest.approx(both.signals[0].value, rel=0.5)


def known(slope: Measured, signal: Measured) -> AdjointSNR:
    return AdjointSNR([0.5], [slope], [signal])


def test_what_is_clear_and_what_alarms() -> None:
    good = known(Measured(1.1, 0.02), Measured(0.4, 0.1))
    assert good.clear and not good.alarming
    assert known(Measured(1.3, 0.02), Measured(0.4, 0.01)).biased
    assert known(Measured(0.7, 0.02), Measured(0.4, 0.01)).biased
    assert not known(Measured(1.3, 0.1), Measured(0.4, 0.01)).alarming, "within its errors"
    assert known(Measured(1.0, 0.1), Measured(0.2, 0.01)).blind
    unsure = known(Measured(1.0, 0.1), Measured(0.2, 0.1))
    assert not unsure.alarming and not unsure.clear and "within the errors" in unsure.sentence()


def test_what_is_not_measured_is_not_a_number() -> None:
    found = known(Measured.none("few states"), Measured(0.4, 0.1))
    assert found.numbers() == {
        "effective": 1.0,
        "slope_0.50_withheld": "few states",
        "signal_0.50": 0.4,
        "signal_0.50_se": 0.1,
    }
    assert "not measured: few states" in found.sentence() and "nan" not in found.sentence()
    none = known(Measured.none("few states"), Measured.none("few states"))
    assert not none.alarming and not none.clear and none.least.withheld


def test_a_tilt_that_few_paths_show_is_withheld() -> None:
    found = seen(gaussian(8), QuadraticReward([6.0] * 8, 0.0), 8, 0, at=(0.2,))
    assert all(s.withheld for s in found.slopes) and not found.alarming
