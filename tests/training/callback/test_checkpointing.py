"""When a training is saved: by steps, by minutes, and at a signal, after which nothing of its record is missing."""

import csv
import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import lightning
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowport.errors import Stopped
from flowport.run.run_folder import RunFolder
from flowport.run.stage import resume
from flowport.training.callback import checkpointing
from flowport.training.callback.checkpointing import Checkpointing
from flowport.training.flow_module import FlowModule
from tests import runs

EVERY = ("trainer.log_every_n_steps=1", "trainer.val_check_interval=5")


def saved_at(seconds: list[float], every: int, minutes: float | None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps after which a training is saved whose steps end at these times; it began at 0."""
    found, now = list[int](), 0.0
    trainer, module = mock.Mock(spec=lightning.Trainer), mock.Mock(spec=lightning.LightningModule)
    trainer.global_step, trainer.max_steps = 0, 100
    trainer.save_checkpoint = lambda path: found.append(trainer.global_step)
    trainer.is_global_zero = False  # nothing is written
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now)
    saving = Checkpointing(Path("last.ckpt"), every, minutes)
    saving.on_train_start(trainer, module)
    for now in seconds:  # noqa: B007
        trainer.global_step += 1
        saving.on_train_batch_end(trainer, module, None, None, 0)
    saving.teardown(trainer, module, "fit")
    return found


def test_minutes_count_from_the_last_save(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [10.0, 20.0, 61.0, 70.0, 90.0, 130.0, 150.0]
    assert saved_at(seconds, 100, 1.0, monkeypatch) == [3, 6]
    assert saved_at(seconds, 5, 1.0, monkeypatch) == [3, 5, 7]
    assert saved_at(seconds, 5, None, monkeypatch) == [5]


class Signalling(lightning.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.step = -1
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("step", [6, 9])  # after step 10 it validates
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_stopped_training_misses_nothing_in_its_record(
    step: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPORT_TRUST", __name__.partition(".")[0])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    runs.run(whole, *EVERY)
    own = f"{{_target_: {__name__}.Signalling, step: {step}, number: {int(number)}}}"
    name = signal.Signals(number).name
    with pytest.raises(Stopped, match=f"stopped by {name} after step {step + 1}, which is saved: go on by"):
        runs.run(broken, *EVERY, f"+callback.mine={own}")
    resume(RunFolder(broken), [])
    assert runs.equal(runs.weights(broken), runs.weights(whole))
    for tag in ("train/loss", "val/loss", "val/w2"):
        assert recorded(broken, tag) == recorded(whole, tag), tag


@pytest.mark.parametrize("logger", ["tensorboard", "csv"])
@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("training_step", 12),  # steps 11 and 12 are written but not saved, and a validation after step 10 is
        ("on_train_batch_end", 10),  # Lightning writes the numbers of a step after this hook
        ("validation_step", 10),
        ("on_validation_end", 10),
    ],
)
def test_a_killed_training_misses_nothing_and_doubles_nothing_in_its_record(
    hook: str, step: int, logger: str, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = (*EVERY, "checkpoint_every=5", f"logger=[{logger}]")
    runs.run(whole, *words)
    runs.killed(HIT, f"{hook} {step} {signal.SIGKILL:d}", str(broken), *words)
    resume(RunFolder(broken), [])
    assert runs.equal(runs.weights(broken), runs.weights(whole))
    for tag in ("train/loss", "val/loss", "val/w2"):
        found = [recorded(folder, tag) for folder in (broken, whole)]
        assert found[0] == found[1], tag


@pytest.mark.parametrize(("first", "every"), [("training_step 9", 100), ("validation_step 10", 10)])
def test_a_training_that_is_told_to_stop_is_saved_before_its_validation_has_ended(
    first: str, every: int, tmp_path: Path
) -> None:
    """A cluster sends SIGKILL a few seconds after SIGTERM, and a validation may last longer."""
    hits = f"{first} {signal.SIGTERM:d},validation_step 10 {signal.SIGKILL:d}"
    runs.killed(HIT, hits, str(tmp_path), *EVERY, f"checkpoint_every={every}")
    assert saved_step(tmp_path) == 10
    assert [step for step, _ in recorded(tmp_path, "train/loss")] == list(range(10))


@pytest.mark.parametrize(("hook", "step"), [("validation_step", 10), ("on_before_batch_transfer", 7)])
def test_a_saved_step_outlives_what_fails_after_it(
    hook: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = getattr(FlowModule, hook)

    def failing(self: FlowModule, *arguments: Any) -> Any:
        if self.batches == step:
            raise RuntimeError("out of memory")
        return plain(self, *arguments)

    monkeypatch.setattr(FlowModule, hook, failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        runs.run(tmp_path, *EVERY, f"checkpoint_every={step}")
    assert saved_step(tmp_path) == step
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_second_signal_while_the_checkpoint_is_replaced_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, module = mock.Mock(spec=lightning.Trainer), mock.Mock(spec=lightning.LightningModule)
    trainer.save_checkpoint, trainer.loggers = lambda path: path.write_text("new"), []
    saving, replace = Checkpointing(tmp_path / "last.ckpt", 1), os.replace

    def interrupted(file: Path, other: Path) -> None:
        saving._note(signal.SIGTERM, None)
        replace(file, other)

    saving.save(trainer, tmp_path / "best.ckpt")
    saving.on_validation_start(trainer, module)
    monkeypatch.setattr(os, "replace", interrupted)
    saving.on_train_batch_start(trainer, module, None, 0)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"last.ckpt": "new", "best.ckpt": "new"}


def saved_step(folder: Path) -> int:
    return int(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])


HIT = """
import os, sys
from pathlib import Path

from flowport.training.flow_module import FlowModule
from tests import runs

hits, folder, *words = sys.argv[1:]


def hit(hook, step, number):
    plain = getattr(FlowModule, hook)

    def struck(self, *arguments):
        if self.batches == step:
            if hook == "training_step":
                for logger in self.trainer.loggers:
                    logger.save()
            os.kill(os.getpid(), number)
        return plain(self, *arguments)

    setattr(FlowModule, hook, struck)


for each in reversed(hits.split(",")):  # the last one that is put around a hook comes first
    hook, step, number = each.split()
    hit(hook, int(step), int(number))
runs.run(Path(folder), *words)
"""
"""Sends a process a signal when it comes to a hook after so many steps: ``<hook> <steps> <signal>``, several by commas.

Where it is a step, what was told to the loggers is written before.
"""


def recorded(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Steps and values of a number."""
    if (folder / "csv").exists():
        with (folder / "csv" / "numbers.csv").open(newline="") as file:
            return [(int(row["step"]), float(row["value"])) for row in csv.DictReader(file) if row["name"] == tag]
    return [(each.step, each.value) for each in EventAccumulator(str(folder / "tensorboard")).Reload().Scalars(tag)]
