"""Boosted runs are runs: every round has its folder, and what it learnt travels with its weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError, Stopped
from flowport.finetuning.tuning_points import held_out
from flowport.randomness import Randomness
from flowport.reward import Reward
from flowport.run.boost import boosted, check_overrides, reached, results
from flowport.run.build import Parts, build, make
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from flowport.run.stage import resume
from flowport.run.train import train
from flowport.types import Condition
from tests import runs
from tests.run.test_finetune import composed, digests, trained
from tests.runs import equal, measured, weights

WORDS = [
    "reward=linear",
    "reward.c=[1,0.5]",
    "trainer.max_steps=4",
    "starts=16",
    "method=path_weighted_adjoint",
    "method.steps_per_rollout=2",
    "method.batch=16",
    "method.paths=4",
    "method.grid.steps=12",
    "threads=1",
    "checkpoint_every=3",
    "scheduler=constant",
    "boosting.points=64",
    "boosting.steps=3",
]


class Near(Reward):
    """Results shall stay near their starts."""

    def forward(self, x1: torch.Tensor, condition: Condition) -> torch.Tensor:
        return -(x1 - condition.source).square().sum(1)


def boost(base: Path, overrides: DictConfig, folder: Path) -> dict:
    """As the command does."""
    parts = Parts()
    check_overrides(overrides, parts)
    return boosted(RunFolder(base), overrides, RunFolder(folder), parts)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(
        tmp_path_factory.mktemp("base") / "run",
        "path=brownian_bridge",
        "conditioning=source",
        "prediction=target",
        "solver=ancestral",
    )


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, before = tmp_path_factory.mktemp("boosted"), digests(base)
    numbers = boost(base, composed("finetune", *WORDS, "boosting.rounds=1"), made)
    assert digests(base) == before
    assert {"certificate/paths", "boosting/gap", "boosting/before_gap", "boosting/cross_entropy"} <= set(numbers)
    return made


def test_what_a_round_learnt_is_restored_with_it(folder: Path) -> None:
    kept, x = weights(folder), torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    place = RunFolder(folder)
    restored, fresh = restore(place).module, build(place.read_config()).module
    assert equal(dict(restored.state_dict()), kept)
    value, other = (module.reward.value(x, Condition()) for module in (restored, fresh))
    assert not torch.equal(value, other), "a fresh network knows nothing of the results"
    fresh.load_state_dict(kept)
    assert torch.equal(fresh.reward.value(x, Condition()), value)


def test_a_resumed_round_equals_an_unbroken_one(folder: Path, tmp_path: Path) -> None:
    """And learns no residual anew, but reads it from the checkpoint."""
    config, before = RunFolder(folder).read_config(), digests(folder)
    make(config.stage).run(OmegaConf.merge(config, {"trainer": {"max_steps": 3}}), RunFolder(tmp_path))
    numbers = resume(RunFolder(tmp_path), ["trainer.max_steps=4"])
    assert equal(weights(tmp_path), weights(folder)) and digests(folder) == before
    whole = measured(json.loads((folder / "metrics.json").read_text()))
    assert measured(numbers) == whole, "what was measured before training is reported again"


@pytest.mark.parametrize("stopped_at", [0, 1])
def test_stopped_rounds_go_on_by_the_same_command(
    base: Path, folder: Path, tmp_path: Path, stopped_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes after the last checkpoint of a round and before its numbers."""
    words, calls = composed("finetune", *WORDS, "boosting.rounds=2"), []
    boost(base, words, tmp_path / "whole")

    def stopping(config: DictConfig, here: RunFolder, *args: Any, **options: Any) -> dict:
        calls.append(here.path.name)
        numbers = train(config, here, *args, **options)
        if len(calls) == stopped_at + 1:
            here.metrics.unlink()
            raise Stopped(15, "after step 4")
        return numbers

    monkeypatch.setattr("flowport.run.finetune.train", stopping)
    with pytest.raises(Stopped, match=f"in round {stopped_at + 1}: go on by the same command with hydra.run.dir="):
        boost(base, words, tmp_path / "broken")
    boost(base, words, tmp_path / "broken")
    assert calls == [*map(str, range(stopped_at + 1)), *map(str, range(stopped_at, 2)), "broken"]
    assert equal(weights(tmp_path / "broken"), weights(tmp_path / "whole"))


def test_rounds_are_measured_by_the_reward_that_was_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the residual reward that the last of them is tuned with."""
    seen = []
    monkeypatch.setattr("flowport.run.boost.distance", lambda base, tuned, value: seen.append(value) or {})
    reached(restore(RunFolder(folder)))
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen[0](x).float(), x @ torch.tensor([1.0, 0.5]))


def test_rounds_go_on_upon_each_other_without_a_reward(base: Path, folder: Path, tmp_path: Path) -> None:
    before = digests(folder)
    boost(folder, composed("finetune", *WORDS[2:], "boosting.rounds=1"), tmp_path)
    entries = RunFolder(tmp_path).read_config().tuning
    assert [entry.base.run for entry in entries] == [str(f) for f in (base, folder / "rounds/0", folder)]
    assert [entry.get("round", 0) for entry in entries] == [0, 1, 2] and digests(folder) == before
    first, second = weights(folder), weights(tmp_path)
    assert not torch.equal(first["learnt.network.first.weight"], second["learnt.network.first.weight"])


def test_stored_starts_are_measured_once_each(tmp_path: Path) -> None:
    """Of which the test split has fewer than ``certified`` asks for, and another number than of targets."""
    generator = torch.Generator().manual_seed(0)
    x, label = torch.randn(150, 2, generator=generator), torch.arange(150) % 3
    np.savez(tmp_path / "source.npz", x=x)
    np.savez(tmp_path / "target.npz", x=x[:70] + 1, label=label[:70])
    files = [f"distribution@{side}=tensor_file" for side in ("source", "target")]
    files += [f"{side}.path={tmp_path}/{side}.npz" for side in ("source", "target")]
    bridge = ["path=brownian_bridge", "conditioning=source", "prediction=target", "solver=ancestral"]
    runs.run(tmp_path / "base", *files, *bridge)
    numbers = boost(tmp_path / "base", composed("finetune", *WORDS, "boosting.rounds=1"), tmp_path / "boosted")
    run = restore(RunFolder(tmp_path / "boosted"))
    source = run.data.pairing.source
    starts = source.split("test").size
    test = run.data.pairing.split("test")
    pair = held_out(test.source, test.target, run.config.certified, Randomness(0))
    assert len(pair) == len(pair.target) == len(pair.source.x.unique(dim=0)) == starts < run.config.certified
    first, last, _ = results(run, run.module.ema, "test")
    assert len(first) == len(last) == starts
    assert len(results(run, run.module.ema, "train")[0]) == 64
    assert 0 < numbers["boosting/effective"] <= starts
    assert numbers["certificate/paths"] == 2 * 16 * starts


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "boosting goes on from a tuned run, which .* is not: say reward=<name> too"),
        (["boosting.rounds=-1"], "boosting.rounds=-1 is too small"),
        (["boosting.points=2"], "boosting.points=2 is too small"),
    ],
)
def test_wrong_rounds_are_refused_by_name(base: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    rest = WORDS if words else WORDS[2:]
    with pytest.raises(FlowportError, match=sentence):
        boost(base, composed("finetune", *rest, "boosting.rounds=1", *words), tmp_path)
    assert not any(tmp_path.iterdir())


def test_boosting_a_flow_from_noise_is_refused(tmp_path: Path) -> None:
    """There the tuning itself aims at the tilt of all results."""
    noise = trained(tmp_path / "noise")
    with pytest.raises(FlowportError, match=r"boosting\.rounds=1 needs a base that sees its start"):
        boost(noise, composed("finetune", *WORDS, "boosting.rounds=1"), tmp_path / "boosted")
    assert not (tmp_path / "boosted").exists()


def test_a_reward_that_reads_the_start_is_refused_before_any_training(base: Path, tmp_path: Path) -> None:
    config = composed("finetune", *WORDS, "boosting.rounds=1")
    config.reward = {"_target_": "tests.run.test_boost.Near"}
    with pytest.raises(FlowportError, match="boosting reaches a law of results, so its reward may read nothing else"):
        boost(base, config, tmp_path)
    assert not list(tmp_path.rglob("*.ckpt"))
