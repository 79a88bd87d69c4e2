"""A run killed at any step and resumed ends as the unbroken run does, bit for bit."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from flowport.errors import FlowportError
from flowport.run import stage
from flowport.run.build import build
from flowport.run.run_folder import RunFolder
from tests import runs

CASES = {
    "pool and prefetch": ["data.pool=4", "data.prefetch=2"],
    "accumulation": [
        "trainer.accumulate_grad_batches=2",
        "trainer.val_check_interval=6",
        "time_sampler@objective.time_sampler=adaptive",
    ],  # what it has learnt is in the checkpoint
}


DEADLY = """
import os, signal, sys
from pathlib import Path

from flowport.training.flow_module import FlowModule
from tests import runs

plain, batch = FlowModule.training_step, int(sys.argv[1])


def deadly(self, pair, batch_idx):
    if self.batches == batch:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, pair, batch_idx)


FlowModule.training_step = deadly
runs.run(Path(sys.argv[2]), *sys.argv[3:])
"""


def killed(folder: Path, batch: int, *words: str) -> None:
    """A tiny run in a process of its own that dies at the beginning of this batch."""
    runs.killed(DEADLY, str(batch), str(folder), *words)


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_unbroken(case: str, tmp_path: Path, capfd: Any) -> None:
    words = [*CASES[case], "optimizer=adamw", "scheduler=cosine"]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    numbers = runs.run(unbroken, *words)
    batches = 2 if case == "accumulation" else 1
    batch = random.Random(case).randrange(8 * batches, 20 * batches)  # past the first checkpoint, of step 7
    killed(broken, batch, *words)
    assert not (broken / "metrics.json").exists()
    kept = torch.load(broken / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 7 * (batch // batches // 7)
    assert not runs.equal(kept["state_dict"], runs.weights(unbroken))

    said = runs.here(capfd, "train.py", f"run={broken}")
    assert said.code == 0, said.err
    assert runs.equal(runs.weights(broken), runs.weights(unbroken))
    after = json.loads((broken / "metrics.json").read_text())
    assert runs.measured(after) == runs.measured(numbers)
    assert after["train/steps"] == 20


def test_resuming_a_finished_run_changes_nothing_and_more_steps_continue_it(tmp_path: Path) -> None:
    folder, longer = tmp_path / "run", tmp_path / "longer"
    first = runs.run(folder, "scheduler=constant")  # a cosine over more steps is another schedule
    done = runs.weights(folder)
    again = stage.resume(RunFolder(folder), [])
    assert runs.equal(runs.weights(folder), done)
    assert runs.measured(again) == runs.measured(first)
    assert again["train/seconds"] == first["train/seconds"] > 0
    more = stage.resume(RunFolder(folder), ["trainer.max_steps=33"])
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").trainer.max_steps == 33, "a later resume knows it too"
    straight = runs.run(longer, "scheduler=constant", "trainer.max_steps=33")
    assert more["train/steps"] == 33
    assert runs.equal(runs.weights(folder), runs.weights(longer))
    assert runs.measured(more) == runs.measured(straight)


def test_one_seed_one_result_whatever_the_environment(trained: Path, tmp_path: Path) -> None:
    torch.manual_seed(12345)
    torch.rand(7)
    GlobalHydra.instance().clear()
    again = runs.run(tmp_path / "again")
    other = runs.run(tmp_path / "other", "seed=1")
    first = json.loads((trained / "metrics.json").read_text())
    assert runs.measured(again) == runs.measured(first)
    assert runs.equal(runs.weights(tmp_path / "again"), runs.weights(trained))
    assert other["test/w2"] != first["test/w2"]
    assert other["test/w2_floor"] != first["test/w2_floor"]


def test_the_validation_of_a_run_does_not_disturb_its_training(trained: Path, tmp_path: Path) -> None:
    runs.run(tmp_path, "trainer.val_check_interval=3", "data.prefetch=1")
    assert runs.equal(runs.weights(tmp_path), runs.weights(trained))


@pytest.mark.parametrize("every", [1, 50])
def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing_of_it(
    every: int, tmp_path: Path, capfd: Any
) -> None:
    said = runs.here(
        capfd,
        "train.py",
        *runs.TINY,
        runs.QUIET,
        "optimizer.lr=1e30",
        f"checkpoint_every={every}",
        f"trainer.log_every_n_steps={every}",
        f"hydra.run.dir={tmp_path}",
    )
    assert "the loss was not finite at training step 1: lower the learning rate" in said.sentence
    assert not (tmp_path / "metrics.json").exists()
    if every == 1:
        kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
        assert kept["global_step"] == 1
        assert all(bool(v.isfinite().all()) for v in kept["state_dict"].values())
    else:
        assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_a_resume_that_diverges_leaves_what_was_saved(tmp_path: Path, capfd: Any) -> None:
    """Lengths near 1e19 are finite, their squares are not."""
    points = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)).numpy()
    np.save(tmp_path / "points.npy", points)
    words = ["distribution@target=tensor_file", f"target.path={tmp_path}/points.npy", "coupling=independent"]
    runs.run(tmp_path, *words)
    path = tmp_path / "checkpoints" / "last.ckpt"
    before = path.read_bytes()
    np.save(tmp_path / "points.npy", np.float32(1e30) * points)
    said = runs.here(capfd, "train.py", f"run={tmp_path}", "trainer.max_steps=40")
    assert "the loss was not finite at training step 20" in said.sentence
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.ckpt"]


def test_the_facts_of_the_coupling_are_those_of_the_last_batch(tmp_path: Path) -> None:
    words = ["coupling=sinkhorn", "trainer.max_steps=3", "trainer.accumulate_grad_batches=2", "data.pool=1"]
    numbers = runs.run(tmp_path, *words)
    stream = build(RunFolder(tmp_path).read_config()).data.train
    found = {name.partition("/")[2]: value for name, value in numbers.items() if name.startswith("coupling/")}
    assert found == stream.facts_of(5) != stream.facts_of(3)


def test_the_options_of_the_optimiser_take_effect_at_a_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs.run(tmp_path, "scheduler=cosine", "optimizer=adamw", "optimizer.lr=0.01", "optimizer.weight_decay=0")
    before = {k: v for k, v in runs.weights(tmp_path).items() if k.startswith("field.")}
    words = ["trainer.max_steps=30", "optimizer.lr=1e-30", "optimizer.weight_decay=0.5"]
    with caplog.at_level("INFO", logger="flowport"):
        stage.resume(RunFolder(tmp_path), words)
    assert "optimizer.lr is 1e-30 from here on, not 0.01" in caplog.text
    assert "optimizer.weight_decay is 0.5 from here on, not 0" in caplog.text
    after = {k: v for k, v in runs.weights(tmp_path).items() if k.startswith("field.")}
    assert runs.equal(before, after), "at this rate nothing moves"
    group = RunFolder(tmp_path).read_checkpoint()["optimizer_states"][0]["param_groups"][0]
    assert group["initial_lr"] == 1e-30 and group["weight_decay"] == 0.5


def test_a_metric_that_fails_is_left_out_and_the_weights_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise FlowportError("this metric needs at least 2 translations")

    monkeypatch.setattr("flowport.metric.TransportCost.compute", fail)
    numbers = runs.run(tmp_path, "metric=[wasserstein,transport_cost]")
    assert "test/w2" in numbers and "test/transport_cost" not in numbers
    assert RunFolder(tmp_path).read_checkpoint()["global_step"] == 20


def test_fewer_steps_and_another_accumulation_are_refused_at_a_resume(tmp_path: Path, capfd: Any) -> None:
    runs.run(tmp_path)
    before = runs.fingerprint(tmp_path)
    said = runs.here(capfd, "train.py", f"run={tmp_path}", "trainer.max_steps=1")
    assert "trainer.max_steps=1 is less than the 20 steps" in said.sentence
    said = runs.here(capfd, "train.py", f"run={tmp_path}", "trainer.accumulate_grad_batches=2")
    assert "trainer.accumulate_grad_batches=2 is another number of batches a step" in said.sentence
    assert runs.fingerprint(tmp_path) == before
