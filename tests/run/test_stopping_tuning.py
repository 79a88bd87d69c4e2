"""A tuning that is stopped by a signal, in the base's training, in its own and in the certificate, loses no step."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import runs
from tests.run.test_finetune import trained

pytestmark = pytest.mark.slow
TUNING = [
    "experiment=finetune_mixture",
    "method=path_weighted_adjoint",
    "base=null",
    "starts=32",
    "method.steps_per_rollout=3",
    "method.batch=16",
    "method.grid.steps=12",
    "scheduler=constant",
    "threads=1",
    "checkpoint_every=100000",
    "watch.items=8",
    "+trainer.enable_progress_bar=false",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("base") / "run")


def started(folder: Path, command: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", runs.HEARD, command, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def stopped(process: subprocess.Popen[str], begun: Callable[[], bool], after: float = 0.5) -> str:
    """What a process says that gets SIGTERM once something has begun."""
    while not begun() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(after)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in said, said
    return said


def step_of(folder: Path) -> int:
    return int(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])


def logged(folder: Path, words: str, times: int = 1) -> bool:
    """Whether a run's log holds words so many times."""
    log = folder / "finetune.log"
    return log.is_file() and log.read_text().count(words) >= times


def test_a_tuning_that_is_stopped_twice_equals_an_unbroken_one(base: Path, tmp_path: Path) -> None:
    steps = ["trainer.max_steps=300", "watch.every=20"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = started(tmp_path, "finetune", f"run={base}", *TUNING, *steps, f"hydra.run.dir={broken}")
    found = []
    for look in (1, 3):
        said = stopped(process, lambda look=look: logged(broken, "KL to the base", look), 0.0)  # type: ignore[misc]
        found.append(step_of(broken))
        assert f"flowport: stopped by SIGTERM after step {found[-1]}, which is saved: go on by flowport train " in said
        assert f"run={broken}" in said
        process = started(tmp_path, "train", f"run={broken}")
    assert 0 < found[0] < found[1] < 300
    assert process.wait() == 0
    assert started(tmp_path, "finetune", f"run={base}", *TUNING, *steps, f"hydra.run.dir={whole}").wait() == 0
    assert runs.equal(runs.weights(broken), runs.weights(whole))
    numbers = [runs.measured(json.loads((folder / "metrics.json").read_text())) for folder in (broken, whole)]
    assert numbers[0] == numbers[1]
    log = (broken / "finetune.log").read_text()
    assert log.count("KL to the base") == 16, "each look once, those of the resumed processes too"


def test_a_signal_in_the_certificate_says_that_the_training_is_saved(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [*TUNING, "trainer.max_steps=6", "certified=200000", f"hydra.run.dir={folder}"]
    process = started(tmp_path, "finetune", f"run={base}", *words)
    said = stopped(process, lambda: logged(folder, "those of the run"), 4.0)
    assert "stopped by SIGTERM" in said and str(folder) in said
    assert f"with its last checkpoint saved: go on by flowport train run={folder}" in said
    assert step_of(folder) == 6


def test_a_signal_while_the_base_is_trained_saves_the_base(tmp_path: Path) -> None:
    command = [*TUNING[:2], *TUNING[3:], "trainer.max_steps=3"]
    process = started(tmp_path, "finetune", *command, f"hydra.run.dir={tmp_path}/run")
    said = stopped(process, lambda: any(tmp_path.glob("outputs/base/*/tensorboard/*")), 1.0)
    (folder,) = (path for path in (tmp_path / "outputs" / "base").iterdir() if path.is_dir())
    assert step_of(folder) > 0
    assert f"stopped by SIGTERM while its base {folder} was trained, of which the last step is saved" in said
    assert "give the same command again" in said
