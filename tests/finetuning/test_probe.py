"""What the probe measures, where it is known in closed form."""

import math

import pytest
import torch
from torch import Tensor

from flowport.conditioning import TargetLabelConditioning
from flowport.errors import FlowportError
from flowport.field import AnalyticField
from flowport.finetuning.method import AutoMethod
from flowport.finetuning.path_weights import Groups
from flowport.finetuning.pilot import SHOWN, Signals
from flowport.finetuning.probe import class_size, probe, size, weighed
from flowport.path import BrownianBridge
from flowport.reward import LinearReward, QuadraticReward
from flowport.types import Condition, Pair, Sample
from tests.laws.oracles import line
from tests.laws.tilts import F64, from_noise, given_start, mixture

S2, C = 0.49, 1.0


def starts(n: int, d: int, seed: int = 0) -> Pair:
    x = Sample(torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed)))
    return Pair(x, x)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_effective_size_and_kl_of_a_gaussian() -> None:
    """Of weights e^{cx} on N(m, s²): the share e^{−c²s²}, the KL c²s²/2; by the reward r and strength λ alike."""
    base = from_noise(line([(1, 0, 1, 1, S2, 0)]))
    once = probe(base, LinearReward([C]), 1.0, starts(2000, 1), generator())
    assert once.effective == pytest.approx(math.exp(-(C**2) * S2), abs=0.04)
    assert once.kl == pytest.approx(C**2 * S2 / 2, abs=0.03)
    assert (once.numbers, once.calls, once.gradient, once.bridge, once.told) == (1, 2000, True, False, False)
    twice = probe(base, LinearReward([C / 2]), 2.0, starts(2000, 1), generator())
    assert twice.effective == pytest.approx(once.effective, rel=1e-9)


def test_on_a_bridge_weights_are_those_given_the_start() -> None:
    """Starts are worth e^{c·E[x1 | x0]}, which is nobody's choice: given the start the variance is S2 − C²/S0."""
    base = given_start(line([(1, 2.0, 1, 4.0, S2, 1.3)]), BrownianBridge(0.8))
    pair = starts(3200, 1)
    start = Sample(2 + 2 * pair.source.x)
    found = probe(base, LinearReward([C]), 1.0, Pair(start, start), generator())
    left = S2 - 1.3**2 / 4.0
    assert found.bridge and found.kl == pytest.approx(C**2 * left / 2, abs=0.01)
    assert found.effective == pytest.approx(math.exp(-(C**2) * left), abs=0.02)
    assert math.exp(-(C**2) * S2) < 0.65 < found.effective


def stated(value: Tensor, groups: Groups) -> tuple[float, float]:
    found = weighed(value, groups)
    return found.effective, found.kl


@pytest.mark.parametrize("deviation", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("groups", [1, 8, "classes"])
def test_two_standard_errors_of_the_kl_cover_the_truth(groups: int | str, deviation: float) -> None:
    """λr ~ N(m, s²) with s/2 and s in turn, 256 results: the KL is s²/2, whatever m of a class or start."""
    inside, stated, n, error = 0, 0, 256, 0.0
    index = torch.arange(n) % 4 if groups == "classes" else torch.arange(n) * int(groups) // n
    scale = deviation * torch.where(index % 2 == 1, 0.5, 1.0)
    truth = float(scale.square().mean() / 2)
    for seed in range(200):
        value = scale * torch.randn(n, generator=generator(seed)) + 3.0 * index
        found = weighed(value.double(), groups if isinstance(groups, int) else index)
        inside += abs(found.kl - truth) <= 2 * found.kl_se
        stated += found.effective >= SHOWN
        error += found.kl_se / 200
        assert found.each == (n / 4 if groups == "classes" else n / int(groups))
    assert inside >= 0.85 * 200 and stated >= 0.75 * 200 and error < truth / 3, (inside, stated, error)


def test_what_few_results_do_not_show_is_withheld() -> None:
    signals = Signals(numbers=2, gradient=True, effective=0.5, paths=256, each=8.0)
    assert signals.withheld() == {
        "effective": "unreliable: 8.0 results of a class or start",
        "kl": "unreliable: 4.0 of 8 results are effective, fewer than 10",
    }
    assert "not measured (unreliable" in signals.sentence() and not Signals(2, True, 0.5, 0.01).withheld()
    assert list(Signals(2, True, 0.39).withheld().values()) == [
        "unreliable: 100 of 256 results are effective, a smaller share than 0.5"
    ]
    two = Signals(2, True, 0.9, bridge=True, paths=64, each=32.0)
    assert two.withheld() == {"kl": "paths from 2 starts, fewer than 16, give no standard error that covers"}
    assert not Signals(2, True, 0.9, bridge=True, paths=512, each=32.0).withheld()


def test_results_of_a_class_are_counted_where_few_classes_are_taken_together() -> None:
    """Three, two and one of a class: (3·3 + 2·2 + 1)/6 on average; continuous labels are never alike."""
    assert class_size(torch.tensor([5, 5, 5, 1, 1, 9])) == pytest.approx(14 / 6)
    assert class_size(torch.tensor([0.5, 0.5])) == 1


def test_weights_are_normalised_in_each_group() -> None:
    """Two classes whose rewards differ by a constant leave everything; as one group they would leave half."""
    value, group = torch.tensor([0.0, 0, 0, 0, 50, 50, 50, 50], dtype=F64), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert stated(value, group) == pytest.approx((1.0, 0.0))
    assert stated(value, torch.zeros(8, dtype=torch.long)) == pytest.approx((0.5, math.log(2)))
    lone = torch.tensor([0.0, 0, 0, 50], dtype=F64)
    assert stated(lone, torch.zeros(4, dtype=torch.long)) == pytest.approx((0.25, math.log(4)))


def test_pieces_measure_the_same() -> None:
    base = from_noise(line([(1, 0, 1, 1, S2, 0)]))
    found = probe(base, LinearReward([C]), 1.0, starts(600, 1), generator(), rows=250)
    assert found.calls == 600 and found.effective == pytest.approx(math.exp(-(C**2) * S2), abs=0.07)


class BlackBox(LinearReward):
    differentiable = False


def test_a_black_box_is_not_asked_for_a_gradient() -> None:
    found = probe(from_noise(line([(1, 0, 1, 1, S2, 0)])), BlackBox([C]), 1.0, starts(64, 1), generator())
    assert not found.gradient and found.signal is None


def many(apart: float) -> AnalyticField:
    """Two modes ±apart along the first of 70 coordinates, of covariance I/4."""
    means = torch.zeros(2, 70, dtype=F64)
    means[:, 0] = torch.tensor([-apart, apart])
    return from_noise(mixture([0.5, 0.5], means, torch.eye(70, dtype=F64).repeat(2, 1, 1) / 4))


@pytest.mark.slow
def test_the_adjoint_of_many_numbers_is_seen_where_nothing_is_decided_and_not_where_it_is_decided_early() -> None:
    """A linear reward of one Gaussian has an adjoint without noise; a reward of the side alone, flat in each mode, none
    at the ends of the paths."""
    clear = probe(many(0.0), LinearReward([0.5] * 70), 0.5, starts(64, 70), generator())
    assert clear.signal is not None and clear.signal > 10
    side = QuadraticReward([6.0] + [0.0] * 69, torch.diag(torch.tensor([0.0] + [4.0] * 69, dtype=F64)))
    decided = probe(many(2.0), side, 0.3, starts(64, 70), generator())
    assert decided.signal is not None and decided.signal + 2 * decided.signal_se < 0.3
    assert clear.calls == 64 + 2 * 8 * 16


def test_the_probe_is_as_small_as_the_tuning() -> None:
    assert [size(AutoMethod(), n) for n in (8, 32, 1024)] == [64, 128, 256]
    with pytest.raises(FlowportError, match="paths=4 is too small"):
        AutoMethod(paths=4)


class ByClass(LinearReward):
    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        return 30 * condition.label.to(x1)


def test_where_a_class_is_told_weights_are_those_given_the_class() -> None:
    """A reward that is the same for all of a class leaves every weight, however much better the other class is."""
    plain = from_noise(line([(1, 0, 1, 1, S2, 0)]))
    told = AnalyticField(plain.joint, plain.path, plain.prediction, TargetLabelConditioning(), plain.capabilities)
    pair = starts(64, 1)
    labelled = Pair(pair.source, Sample(pair.target.x, torch.arange(64) % 2))
    found = probe(told, ByClass([C]), 1.0, labelled, generator())
    assert found.told and found.effective == pytest.approx(1) and found.kl == pytest.approx(0, abs=1e-9)
