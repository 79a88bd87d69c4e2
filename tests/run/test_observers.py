"""Loggers and callbacks are chosen by config, and a stranger's folder chooses none that sends."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowport.errors import FlowportError
from flowport.run import stage
from flowport.run.observers import callbacks_of, loggers_of
from flowport.run.run_folder import RunFolder
from flowport.run.trust import remember_programs
from flowport.training.logger import CsvLogger
from tests import runs

EVERY = "trainer.log_every_n_steps=5"
FAST = ("metric=[]", "evaluation_items=4", "solver=euler", "grid.steps=1")


class Counting(lightning.Callback):
    """Counts batches; a user's own callback."""

    batches = 0

    def __init__(self, by: int = 1) -> None:
        self.by = by

    def on_train_batch_end(self, *_: Any) -> None:
        Counting.batches += self.by


def rows(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "csv" / "numbers.csv").open(newline="") as file:
        return [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]


def lasting(found: list[tuple[int, str, float]]) -> dict[tuple[int, str], float]:
    """What does not depend on the clock; fails where a number stands twice."""
    counts = Counter((step, name) for step, name, _ in found)
    assert max(counts.values()) == 1, counts.most_common(3)
    return {(step, name): v for step, name, v in found if "second" not in name}


def test_csv_alone_trains_resumes_evaluates_and_tabulates(tmp_path: Path, capfd: Any) -> None:
    broken, whole = tmp_path / "sweep" / "0", tmp_path / "sweep" / "1"
    words = ("logger=[csv]", EVERY, "scheduler=constant", "trainer.val_check_interval=10")
    runs.run(broken, *words)
    assert not (broken / "tensorboard").exists()
    found = lasting(rows(broken))
    assert [step for step, name in found if name == "train/loss"] == [4, 9, 14, 19]
    assert [step for step, name in found if name == "val/w2_floor"] == [10, 20]
    numbers = json.loads((broken / "metrics.json").read_text())
    assert found[20, "test/w2"] == numbers["test/w2"]
    chosen = dict(csv.reader((broken / "csv" / "choices.csv").open(newline="")))
    assert chosen["coupling"] == "ExactCoupling" and "logger" not in chosen
    with (broken / "csv" / "numbers.csv").open("a") as file:
        file.write("25,train/loss,1.0\n26,train/lo")  # of a process that was killed after the checkpoint
    stage.resume(RunFolder(broken), ["trainer.max_steps=30"])
    runs.run(whole, *words, "trainer.max_steps=30")
    ours, theirs = lasting(rows(broken)), lasting(rows(whole))
    for name in ("train/loss", "val/w2", "coupling/cost", "train/learning_rate"):
        assert {k: v for k, v in ours.items() if k[1] == name} == {k: v for k, v in theirs.items() if k[1] == name}
    assert [step for step, name in ours if name == "train/loss"] == [4, 9, 14, 19, 24, 29]
    said = runs.here(capfd, "evaluate.py", f"run={broken}", "solver=euler", f"hydra.run.dir={tmp_path / 'again'}")
    assert said.code == 0, said.err
    for k, place in enumerate((broken, whole)):
        (place / ".hydra" / "overrides.yaml").write_text(f"- logger=[csv]\n- seed={k}\n")
    said = runs.here(capfd, "tabulate.py", str(tmp_path / "sweep"))
    assert said.code == 0 and (tmp_path / "sweep" / "runs.csv").is_file(), said.err


def test_no_logger_and_two_loggers(tmp_path: Path) -> None:
    none, both = tmp_path / "none", tmp_path / "both"
    runs.run(none, "logger=[]", *FAST)
    assert OmegaConf.load(none / ".hydra" / "config.yaml").logger == {}
    assert not {"tensorboard", "csv"} & {place.name for place in none.iterdir()}
    stage.resume(RunFolder(none), ["trainer.max_steps=21"])
    runs.run(both, "logger=[tensorboard,csv]")
    events = EventAccumulator(str(both / "tensorboard")).Reload()
    (seen,) = (e.value for e in events.Scalars("val/w2"))
    assert seen == pytest.approx(lasting(rows(both))[20, "val/w2"])


def test_a_config_without_the_key_logs_to_tensorboard(tmp_path: Path) -> None:
    config = runs.configured()
    OmegaConf.set_struct(config, False)
    del config["logger"]
    (log,) = loggers_of(config, RunFolder(tmp_path), None)
    assert type(log).__name__ == "TensorboardLogger"


def test_a_users_own_callback_runs_and_a_strangers_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"{__name__}.Counting"
    Counting.batches = 0
    runs.run(tmp_path, f"+callback.mine._target_={own}", "+callback.mine.by=2", "logger=[]", *FAST)
    assert Counting.batches == 40
    with pytest.raises(FlowportError, match=r"wants to build .*Counting at callback\.mine"):
        stage.resume(RunFolder(tmp_path), ["trainer.max_steps=25"])
    monkeypatch.setenv("FLOWPORT_TRUST", own.partition(".")[0])
    stage.resume(RunFolder(tmp_path), ["trainer.max_steps=25"])
    assert Counting.batches == 50


def test_callbacks_of_the_group_end_a_training(tmp_path: Path) -> None:
    words = ["callback=[early_stopping]", "+callback.early_stopping.stopping_threshold=1e9", "logger=[csv]"]
    numbers = runs.run(tmp_path, *words, *FAST, "trainer.val_check_interval=10")
    assert numbers["train/steps"] == 10 and (tmp_path / "metrics.json").is_file()
    read = RunFolder(tmp_path).read_config()  # of the config groups: no trust is needed
    assert type(callbacks_of(read)[0]).__name__ == "EarlyStopping"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_strangers_folder_sends_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPORT_HOME", str(tmp_path / "home"))
    config = runs.prepared(tmp_path, f"logger=[{name}]")
    RunFolder(tmp_path).write_config(config)
    with pytest.raises(FlowportError, match=f"sends the numbers and pictures of a run to a server by logger.{name}"):
        RunFolder(tmp_path).read_config()
    assert RunFolder(tmp_path, trust=True).read_config().logger == config.logger
    remember_programs(OmegaConf.to_container(config))  # as the command does that trains it
    assert RunFolder(tmp_path).read_config().logger == config.logger
    changed = OmegaConf.load(tmp_path / ".hydra" / "config.yaml")
    changed.logger[name]["project" if name == "wandb" else "tracking_uri"] = "http://elsewhere"
    OmegaConf.save(changed, tmp_path / ".hydra" / "config.yaml")
    with pytest.raises(FlowportError, match="sends the numbers"):
        RunFolder(tmp_path).read_config()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trainer.logger=false"], r"trainer\.logger=false would have no effect.*choose logger=\[tensorboard,csv,"),
        (["+trainer.logger=true"], r"trainer\.logger=true would have no effect"),
        (["trainer.logger.save_dir=x"], r"trainer\.logger\.save_dir=x would have no effect.*choose logger=\["),
        (["+trainer.callbacks=[]"], r"trainer\.callbacks=\[\] would have no effect.*callback=\[<names>\]"),
        (["logger=null"], r"logger=null is no list of loggers: write logger=\[\]"),
        (["+logger=csv"], r"chooses a second logger: write logger=\[tensorboard,csv\]"),
        (["~callback"], "takes a part away"),
        (["+callback.mine.by=2"], r"callback=mine has no _target_"),
        (["+callback.mine._target_=torch.nn.Identity"], r"callback\.mine\._target_=torch\.nn\.Identity is no callback"),
        (["+logger.mine._target_=torch.nn.Identity"], r"logger\.mine\._target_=torch\.nn\.Identity is no logger"),
        (["logger=[csv]", "+logger.csv.project=a"], r"logger\.csv\.project is unknown"),
    ],
)
def test_refusals_say_what_to_write(words: list[str], sentence: str, tmp_path: Path, capfd: Any) -> None:
    said = runs.here(capfd, "train.py", *runs.TINY, runs.QUIET, *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert re.search(sentence, said.sentence), said.sentence


def test_a_package_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = runs.configured("logger=[wandb]")

    def absent(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'wandb'", name="wandb")

    monkeypatch.setattr("flowport.training.logger.WandbLogger.__init__", absent)
    with pytest.raises(FlowportError, match=r"logger=wandb needs the package wandb: install it"):
        loggers_of(config, RunFolder(tmp_path), None)


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    log = CsvLogger(tmp_path)
    log.log_metrics({"val/w2": torch.tensor(1.0)}, 1)
    log.log_hyperparams({"a": 1})
    assert list(tmp_path.iterdir()) == []
