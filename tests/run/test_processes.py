"""Two processes on the CPU train one run: equal weights, one stream, one voice, one end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from flowport.run.rank_place import environment_of
from tests import runs


def started(*command: str, variables: dict[str, str] | None = None) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(runs.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=runs.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_by_two(module: str, folder: Path) -> None:
    """A program, given a folder, in two processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [started("-m", module, str(folder), variables=environment_of(rank, 2, port)) for rank in range(2)]
    ends = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends[0][1][-4000:] + ends[1][1][-4000:]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes of ``tests.run.together`` left."""
    folder = tmp_path_factory.mktemp("together")
    run_by_two("tests.run.together", folder)
    return folder


def said(folder: Path, rank: int) -> dict[str, Any]:
    return json.loads((folder / f"{rank}.json").read_text())


def test_weights_and_averages_are_equal_on_both_bit_by_bit(together: Path) -> None:
    ours, theirs = (torch.load(together / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert len(ours) == len(theirs) == 8
    assert all(runs.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not runs.equal(ours[0], ours[1]), "50 steps are more than 30"


def test_a_resumed_run_equals_an_unbroken_one(together: Path) -> None:
    assert runs.equal(runs.weights(together / "broken"), runs.weights(together / "whole"))
    assert said(together, 0)["batches"] == said(together, 1)["batches"]
    assert said(together, 0)["batches"][:3] == [[50, 50], [30, 30], [50, 50]]


def test_one_process_measures_and_writes(together: Path) -> None:
    assert said(together, 1)["numbers"] == {}
    assert "test/sliced_w2" in said(together, 0)["numbers"]
    assert len(list((together / "whole" / "tensorboard").glob("events*"))) == 1


def test_a_resumed_tuning_has_the_replay_of_each_process(together: Path) -> None:
    whole, stopped = (
        torch.load(together / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("tuned", "stopped")
    )
    assert runs.equal(stopped["state_dict"], whole["state_dict"])
    assert "replay" not in whole and len(whole["replays"]) == 2
    mine, other = (replay[-1] for replay in whole["replays"])
    assert mine.keys() == other.keys()
    assert not torch.equal(mine["end"], other["end"])


def test_both_stop_after_the_step_that_the_first_one_sees_beyond_the_budget(together: Path) -> None:
    assert [said(together, rank)["bounded"] for rank in range(2)] == [[2, 2], [2, 2]]
    numbers = json.loads((together / "bounded" / "metrics.json").read_text())
    assert (numbers["watch/kept_step"], numbers["watch/stopped_step"]) == (0, 2)


def test_a_bad_loss_on_one_process_ends_both_with_one_sentence(together: Path) -> None:
    sentences = {said(together, rank)["nan"] for rank in range(2)}
    assert len(sentences) == 1 and "the loss was not finite at training step 12" in sentences.pop()


def test_a_signal_to_one_process_saves_the_same_step_and_stops_both(together: Path) -> None:
    for rank in range(2):
        assert said(together, rank)["signal"].startswith("stopped by SIGTERM after step 7, which is saved")
    assert torch.load(together / "signal" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 7


def test_where_the_minutes_of_one_process_are_over_both_save(together: Path) -> None:
    assert [said(together, rank)["minutes"] for rank in range(2)] == [[3, 8, 10, 10]] * 2


TWO = (*runs.TINY, runs.QUIET, "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_steps=400", "network.depth=1")
TWO = (*TWO, "checkpoint_every=50", "trainer.log_every_n_steps=1")


def ended(process: subprocess.Popen[str]) -> runs.Said:
    out, err = process.communicate(timeout=240)
    return runs.Said(process.returncode, err, out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of two processes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    end = ended(started("launch/train.py", *TWO, f"hydra.run.dir={folder}"))
    assert end.code == 0, end.err
    assert end.out.count("test/w2_n") == end.out.count("couples its own points") == 1
    return folder


def test_a_stopped_command_goes_on_to_the_end_of_an_unbroken_one(whole: Path, tmp_path: Path) -> None:
    """The signal reaches the command, which its processes do not hear themselves."""
    broken = tmp_path / "broken"
    process = started("launch/train.py", *TWO, f"hydra.run.dir={broken}")
    while not (broken / "checkpoints" / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    end = ended(process)
    assert end.code == 128 + signal.SIGTERM and "Traceback" not in end.err
    assert f"go on by flowport train run={broken}" in end.err and end.err.count("flowport: ") == 1, end.err
    assert ended(started("launch/train.py", f"run={broken}")).code == 0
    assert runs.equal(runs.weights(broken), runs.weights(whole))


def test_torchrun_starts_the_same_run(whole: Path, tmp_path: Path) -> None:
    starter = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "flowport.run", "train")
    end = ended(started(*starter, *TWO, f"hydra.run.dir={tmp_path / 'run'}"))
    assert end.code == 0, end.err
    assert end.out.count("test/w2_n") == 1
    assert runs.equal(runs.weights(tmp_path / "run"), runs.weights(whole))


def test_a_refusal_on_the_second_process_ends_both_with_one_sentence(tmp_path: Path) -> None:
    refusing = ("coupling=independent", "coupling._target_=tests.run.refusing.RefusingCoupling")
    end = ended(started("launch/train.py", *TWO, *refusing, f"hydra.run.dir={tmp_path / 'run'}"))
    assert end.sentence == "the second process refuses"
