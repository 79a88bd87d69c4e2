"""The pilot's rules as a table, in the docs as in the code, and what they become as objects and as configs."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from flowport.conditioning import SourceConditioning, TargetLabelConditioning, Unconditional
from flowport.errors import member_name
from flowport.finetuning.adjoint_snr import AdjointSNR, Measured
from flowport.finetuning.chosen import METHODS, chosen_adapter, chosen_method
from flowport.finetuning.method import AdjointMatching, PathWeighted, ValueMatching
from flowport.finetuning.pilot import RULES, Choice, Signals, advice, choose, table

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "fine_tuning.md"
PICTURE = Signals(numbers=784, gradient=True, effective=0.2, signal=0.02, signal_se=0.01)
PLANE = Signals(numbers=2, gradient=True, effective=0.4)


@pytest.mark.parametrize(
    ("signals", "method", "adapter"),
    [
        (PLANE, "path_weighted_adjoint", "control"),
        (Signals(2, False, 0.4), "path_weighted", "control"),
        (Signals(64, True, 0.001), "path_weighted_adjoint", "control"),
        (PICTURE, "value_matching", "value"),
        (Signals(784, True, 0.2, signal=1.3, signal_se=0.1), "adjoint_matching", "control"),
        (Signals(256, True, 0.56, signal=0.133, signal_se=0.103, bridge=True), "value_matching", "value"),  # digits
        (Signals(784, True, 0.2, signal=0.29, signal_se=0.1), "adjoint_matching", "control"),  # within its error
        (Signals(784, True, 0.02, signal=0.02, signal_se=0.01), "adjoint_matching", "control"),  # no value to learn
        (Signals(784, True, 0.2, signal=0.02, signal_se=0.01, told=True), "adjoint_matching", "control"),
        (Signals(784, True, 0.2), "adjoint_matching", "control"),  # the signal was not measured
        (Signals(784, False, 0.2), "value_matching", "value"),
        (Signals(784, False, 0.2, told=True), "policy_gradient", "control"),
        (Signals(784, False, 0.004), "policy_gradient", "control"),
    ],
    ids=str,
)
def test_the_rules(signals: Signals, method: str, adapter: str) -> None:
    choice = choose(signals)
    assert (choice.method, choice.adapter) == (method, adapter)
    assert choice.why.startswith(f"method={method}: {signals.numbers} numbers a point, effective size of base weights")


def test_every_problem_has_a_method_and_no_rule_is_idle() -> None:
    chosen = set()
    answers = itertools.product(
        (2, 784), (True, False), (0.001, 0.03, 0.5), (None, 0.0, 2.0), (True, False), (True, False)
    )
    for numbers, gradient, effective, signal, told, bridge in answers:
        signals = Signals(numbers, gradient, effective, signal if gradient else None, 0.01, told, bridge)
        choice = choose(signals)
        chosen.add(next(k for k, rule in enumerate(RULES) if rule.fits(signals.facts)))
        assert gradient or not chosen_method(choice).needs_gradient
        assert not (told and choice.method == "value_matching"), "it refuses flows that are told a class"
    assert chosen == set(range(len(RULES)))


def test_an_adapter_that_holds_no_value_passes_the_rows_over_that_learn_one() -> None:
    assert (
        choose(PICTURE, "low_rank").method == "adjoint_matching" and choose(PICTURE, "low_rank").adapter == "low_rank"
    )
    assert choose(PICTURE, "value").method == "value_matching"
    assert choose(PLANE, "value").adapter == "value" and choose(PLANE, "full").method == "path_weighted_adjoint"


def test_pictures_take_low_rank_updates_where_they_can() -> None:
    seen = Signals(784, True, 0.004, 1.3, 0.1, low_rank=True)
    assert choose(seen).adapter == "low_rank" and choose(seen, "full").adapter == "full"
    assert choose(Signals(784, True, 0.2, 0.02, 0.01, low_rank=True)).adapter == "value"


def test_it_is_said_where_the_adjoint_is_taken_although_it_says_little() -> None:
    """Since a value is not learnt for a told class, from few effective results, or with another adapter."""
    seen = Signals(784, True, 0.2, 0.02, 0.01)
    for signals, adapter in ((replace(seen, told=True), None), (replace(seen, effective=0.01), None), (seen, "full")):
        choice = choose(signals, adapter)
        assert choice.method == "adjoint_matching" and "with a signal below 0.3 it may gain little" in choice.why
    assert "may gain little" not in choose(replace(seen, signal=1.0)).why + choose(seen).why


def test_it_is_said_where_the_tilt_is_far_from_the_data() -> None:
    far = Signals(784, True, 0.017, 0.4, 0.1)
    assert "say stop.energy=5" in choose(far).why and "say stop.energy=5" in choose(replace(far, gradient=False)).why
    assert not any("stop.energy" in choose(replace(far, **o)).why for o in ({"effective": 0.2}, {"numbers": 2}))


def test_it_is_said_where_low_rank_updates_are_missed_for_want_of_their_library() -> None:
    without, hint = Signals(784, True, 0.004, 1.3, 0.1, low_rank=False), "pip install 'flowport[lora]'"
    assert choose(without).adapter == "control" and hint in choose(without).why
    others = [replace(without, low_rank=known) for known in (None, True)]
    others.append(replace(without, effective=0.2, signal=0.02, signal_se=0.01))
    assert all(hint not in choose(other).why for other in others)
    assert hint not in choose(without, "control").why and hint not in choose(without, "full").why


def test_where_few_base_results_show_the_tilt_less_is_fitted_to_each() -> None:
    few = chosen_method(choose(Signals(16, True, 0.004)))
    assert isinstance(few, PathWeighted) and (few.late, few.batch, few.replay_size) == (0.65, 256, 40)
    saturated = chosen_method(choose(Signals(16, True, 0.034, paths=128)))  # 4 results, whatever their share is
    assert isinstance(saturated, PathWeighted) and saturated.late == 0.65
    enough = chosen_method(choose(Signals(16, True, 0.05, paths=256)))
    assert isinstance(enough, PathWeighted) and enough.late == 0.8
    bridge = chosen_method(choose(Signals(2, True, 0.6, bridge=True)))
    assert isinstance(bridge, PathWeighted) and bridge.discretisation.grid.steps == 80 and bridge.late == 0.8
    black_box = chosen_method(choose(Signals(16, False, 0.004, bridge=True)))
    assert isinstance(black_box, PathWeighted) and black_box.late is None and black_box.replay_size == 40
    picture, plain = chosen_method(choose(PICTURE)), chosen_method(choose(Signals(784, True, 0.2, 1.0)))
    assert isinstance(picture, ValueMatching) and picture.grid.steps == 10
    assert isinstance(plain, AdjointMatching) and (plain.early, plain.steps_per_rollout) == (4, 4)


def test_the_guide_has_the_table_of_the_code() -> None:
    assert table() in GUIDE.read_text(), "write the table of `flowport.finetuning.pilot.table()` into the guide"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_names_of_the_rules_are_those_of_the_configs(method: str) -> None:
    made = chosen_method(Choice(method, "control", "", {}))
    assert method in (member_name(type(made), "method"), "path_weighted_adjoint")
    assert chosen_adapter(Choice(method, "value", "", {})).has_log_value


def test_what_to_do_instead_is_what_the_pilot_would_choose() -> None:
    blind = AdjointSNR([0.2], [Measured.none("")], [Measured(0.01, 0.01)], effective=0.3)
    assert advice(blind, 784, Unconditional()) == "method=value_matching with adapter=value"
    assert advice(blind, 2, Unconditional()) == "method=path_weighted_adjoint"
    assert advice(blind, 2, SourceConditioning()) == "method=path_weighted_adjoint"
    assert "certificate" in advice(blind, 784, TargetLabelConditioning()), "no value where a class is told"
    assert "use method=value_matching" in blind.sentence(advice(blind, 784, Unconditional()))
