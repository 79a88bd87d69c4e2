"""``method=auto`` from the command's config to the run's folder: what it chooses, says, keeps and refuses."""

import json
import logging
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from flowport.errors import FlowportError
from flowport.finetuning.chosen import METHODS, chosen_method
from flowport.finetuning.method.base import require_method
from flowport.finetuning.pilot import RULES, Choice
from flowport.reward import LinearReward
from flowport.run import piloted
from flowport.run.boost import round_config
from flowport.run.build import Parts, make
from flowport.run.finetune import check_overrides, tune, tuned_config
from flowport.run.run_folder import RunFolder
from flowport.run.stage import resume
from flowport.types import Condition
from tests.run.test_finetune import composed, trained
from tests.runs import equal, weights

WORDS = ["reward=linear", "reward.c=[0.5,0.4]", "trainer.max_steps=4", "starts=16", "certified=16", "threads=1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("base") / "run")


def settled(base: Path, *words: str) -> DictConfig:
    overrides = composed("finetune", *WORDS, "gallery=false", *words)
    check_overrides(overrides, Parts())
    return tuned_config(RunFolder(base), overrides)


def test_the_default_chooses_says_why_and_keeps_it(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        config = settled(base)
    entry = config.tuning[-1]
    assert entry.method._target_.endswith("PathWeighted") and entry.method.late == 0.8
    assert entry.adapter._target_.endswith("ControlAdapter") and entry.adapter.network is not None
    assert entry.pilot.method == "path_weighted_adjoint" and 0 < entry.pilot.effective <= 1 and entry.pilot.calls == 64
    said = [r.getMessage() for r in caplog.records if r.name == "flowport.run.piloted"]
    assert (
        len(said) == 1
        and "2 numbers a point, effective size of base weights" in said[0]
        and "64 evaluations" in said[0]
    )
    assert settled(base) == config, "the same command chooses the same, so that a stopped one goes on"


@pytest.mark.slow
def test_a_tuning_by_the_pilot_is_resumed_with_what_it_chose(base: Path, tmp_path: Path) -> None:
    config = settled(base, "scheduler=constant", "checkpoint_every=2")
    short = OmegaConf.merge(config, {"trainer": {"max_steps": 2}})
    assert isinstance(short, DictConfig)
    whole = tune(config, RunFolder(tmp_path / "whole"))
    tune(short, RunFolder(tmp_path / "broken"))
    numbers = resume(RunFolder(tmp_path / "broken"), ["trainer.max_steps=4"])
    assert equal(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    assert numbers["pilot/method"] == whole["pilot/method"] == "path_weighted_adjoint"
    told = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert told["pilot/numbers"] == 2 and told["pilot/calls"] == 64 and "pilot/why" not in told


def test_what_the_user_names_stays(base: Path) -> None:
    named = settled(base, "method=adjoint_matching").tuning[-1]
    assert named.method._target_.endswith("AdjointMatching") and "pilot" not in named
    assert named.adapter._target_.endswith("ControlAdapter")
    assert settled(base, "method=value_matching").tuning[-1].adapter._target_.endswith("ValueAdapter")
    full = settled(base, "adapter=full").tuning[-1]
    assert full.adapter._target_.endswith("FullAdapter") and full.pilot.adapter == "full"


def test_options_of_a_network_go_to_the_adapter_that_is_chosen(base: Path) -> None:
    entry = settled(base, "+network@adapter.network=mlp", "adapter.network.width=24").tuning[-1]
    assert entry.adapter._target_.endswith("ControlAdapter") and entry.adapter.network.width == 24
    with pytest.raises(FlowportError, match=r"adapter.rank is no option of adapter=control.*say adapter=<name> too"):
        settled(base, "+adapter.rank=3")


@pytest.mark.slow
def test_a_reward_without_a_gradient_and_a_bridge(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowport.reward.LinearReward.differentiable", False, raising=False)
    entry = settled(base).tuning[-1]
    assert entry.method._target_.endswith("PathWeighted") and entry.method.late is None
    monkeypatch.undo()
    words = ["path=brownian_bridge", "conditioning=source", "prediction=target", "solver=ancestral"]
    config = settled(trained(tmp_path / "bridge", *words))
    assert config.tuning[-1].method.grid.steps == 80 and config.tuning[-1].method.replay_size == 40


@pytest.mark.slow
def test_rounds_of_boosting_go_on_by_the_method_that_was_chosen(base: Path, tmp_path: Path) -> None:
    tune(settled(base), RunFolder(tmp_path / "first"))
    config = round_config(RunFolder(tmp_path / "first"), composed("finetune", *WORDS[2:], "boosting.rounds=1"))
    first, second = config.tuning
    assert second.method == first.method and "pilot" not in second


def test_a_probe_of_too_few_paths_is_refused_in_a_sentence() -> None:
    overrides = composed("finetune", *WORDS, "method.paths=3")
    with pytest.raises(FlowportError, match="is too small"):
        check_overrides(overrides, Parts())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_chosen_method_is_the_same_from_a_config_and_from_python(method: str) -> None:
    options = next(rule.options for rule in RULES if rule.method == method)
    choice = Choice(method, "control", "", options)
    one, other = require_method(make(piloted._method(choice))), chosen_method(choice)
    assert type(one) is type(other)

    def plain(value: object) -> object:
        inner = vars(value) if isinstance(getattr(value, "__dict__", None), dict) else None
        return value if inner is None else {k: plain(v) for k, v in inner.items()}

    assert plain(one) == plain(other)


def test_the_probe_evaluates_rows_at_a_time(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network and the reward see at most ``rows`` points; without a word, all of the probe's."""
    seen, plain = list[int](), LinearReward.forward

    def counted(self: LinearReward, x1: Tensor, condition: Condition) -> Tensor:
        seen.append(len(x1))
        return plain(self, x1, condition)

    monkeypatch.setattr(LinearReward, "forward", counted)
    settled(base)
    whole = max(seen)
    seen.clear()
    entry = settled(base, "rows=10").tuning[-1]
    assert whole == 64 and max(seen) == 10 and sum(seen) >= 64
    assert 0 < entry.pilot.effective <= 1
