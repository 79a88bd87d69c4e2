"""A run that is stopped loses no step, and two processes do not write into one folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from flowport.run.run_folder import RunFolder
from tests import runs

pytestmark = pytest.mark.slow
LONG = [*runs.TINY, runs.QUIET, "trainer.max_steps=400", "checkpoint_every=1000", "network.depth=1"]


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", runs.HEARD, "train", *words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def events(folder: Path) -> bool:
    """Whether training has begun: TensorBoard's file is there."""
    return any(folder.glob("tensorboard/*"))


@pytest.mark.parametrize(("accumulated", "steps"), [(1, 300), (3, 150)])
def test_a_run_that_is_stopped_again_and_again_equals_an_unbroken_one(
    tmp_path: Path, accumulated: int, steps: int
) -> None:
    words = [*LONG, f"trainer.accumulate_grad_batches={accumulated}", "trainer.log_every_n_steps=1"]
    words += [f"trainer.max_steps={steps}"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert started(tmp_path, *words, f"hydra.run.dir={whole}").wait() == 0
    process, stops = started(tmp_path, *words, f"hydra.run.dir={broken}"), []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        while not events(broken) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.4)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        if (broken / "metrics.json").is_file():  # it was quicker than the signal
            break
        stops.append((process.returncode, 128 + number))
        assert f"stopped by {signal.Signals(number).name} after step" in said and "Traceback" not in said, said
        assert f"go on by flowport train run={broken}" in said
        shutil.rmtree(
            broken / "tensorboard"
        )  # its next files say that training goes on (and the floors' folder, if it ends)
        process = started(tmp_path, f"run={broken}")
    assert stops and all(found == wanted for found, wanted in stops)
    process.communicate(timeout=120)
    assert (broken / "metrics.json").is_file()
    assert runs.equal(runs.weights(broken), runs.weights(whole))
    numbers = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, broken)]
    assert runs.measured(numbers[0]) == runs.measured(numbers[1])


def test_a_second_process_and_a_finished_run_are_refused(trained: Path, tmp_path: Path, capfd: Any) -> None:
    before = runs.fingerprint(trained)
    for command in ("train.py", "evaluate.py"):
        words = [f"run={trained}"] if command == "evaluate.py" else runs.TINY
        said = runs.here(capfd, command, *words, f"hydra.run.dir={trained}")
        assert f"hydra.run.dir={trained} holds a run" in said.sentence
    assert runs.fingerprint(trained) == before
    with FileLock(trained / ".lock"):
        assert "is being written by another process" in runs.here(capfd, "train.py", f"run={trained}").sentence
        (tmp_path / "new").mkdir()
    with FileLock(tmp_path / "new" / ".lock"):
        said = runs.here(capfd, "train.py", *runs.TINY, f"hydra.run.dir={tmp_path}/new")
        assert "is being written by another process" in said.sentence
    (trained / ".lock").unlink(missing_ok=True)


def test_two_runs_of_one_second_have_two_folders(tmp_path: Path) -> None:
    words = [*runs.TINY, runs.QUIET, "trainer.max_steps=1"]
    both = [started(tmp_path, *words, f"seed={seed}") for seed in (0, 1)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list(tmp_path.glob("outputs/train/*/*/metrics.json"))) == 2


def test_a_run_under_nohup_goes_on(tmp_path: Path) -> None:
    words = [*LONG, "trainer.max_steps=150", f"hydra.run.dir={tmp_path}/run"]
    code = "import signal, runpy, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); sys.argv = sys.argv[1:]; "
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code + "runpy.run_module('flowport.run', run_name='__main__')",
            "flowport",
            "train",
            *words,
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stderr=subprocess.PIPE,
    )
    while not events(tmp_path / "run") and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and (tmp_path / "run" / "metrics.json").is_file(), said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_training_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, *LONG, f"hydra.run.dir={tmp_path}/run")
    while not (tmp_path / "run" / ".lock").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert f"stopped by {number.name}" in said and "Traceback" not in said
    assert "give the same command again" in said or "go on by flowport train run=" in said


def test_partial_files_of_a_killed_process_go_with_the_next_one(trained: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(trained, tmp_path / "run"))
    (folder.path / ".metrics.json.12345").write_text("{")
    with folder.locked():
        pass
    assert not (folder.path / ".metrics.json.12345").exists() and (folder.path / ".hydra").is_dir()
