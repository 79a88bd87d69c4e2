"""Sweeps on a real Slurm: equal tables, and nothing lost or run twice, whoever is killed, stopped or queued again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import runs
from tests.run import slurm_cluster
from tests.run.slow_sweep import LIMIT, PLANE, TINY, Sweep, steps_of, table, until
from tests.run.slurm_cluster import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(not slurm_cluster.installed(), reason="needs Slurm and munge (slurm-wlm, munge)"),
]
Limited = tuple[Sweep, subprocess.Popen[str]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        try:
            made.start()
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"Slurm does not start on this machine: {error}")
        yield made
    finally:
        made.stop()


def sweep_on(cluster: Cluster, folder: Path, *words: str) -> Sweep:
    return Sweep(folder, cluster.variables, [*on_slurm(), *words])


def on_slurm(minutes: int = 10) -> list[str]:
    own = [f"hydra.launcher.{word}" for word in (f"timeout_min={minutes}", "cpus_per_task=1")]
    return ["hydra/launcher=slurm", "jobs=4", *own]


def test_the_tables_of_slurm_and_of_one_process_are_equal(
    cluster: Cluster, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.settings))
    words = [*PLANE, "seed=0,1,-1"]
    for name, launcher in (("basic", ["hydra/launcher=basic"]), ("slurm", on_slurm())):
        said = runs.here(capfd, "train.py", *words, *launcher, f"hydra.sweep.dir={tmp_path}/{name}")
        assert said.code == 1 and "1 of 3 jobs did not finish" in said.err and "Traceback" not in said.err, said.err
        assert runs.here(capfd, "tabulate.py", f"{tmp_path}/{name}").code == 0
    one, other = table(tmp_path / "basic"), table(tmp_path / "slurm")
    assert len(one) == 3 and one.select_dtypes("number").notna().sum().sum() > 4
    pandas.testing.assert_frame_equal(one, other, check_exact=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "slurm" / "1").rglob("*") if path.is_file()}
    said = runs.here(capfd, "train.py", *words, *on_slurm(), f"hydra.sweep.dir={tmp_path}/slurm")
    assert said.code == 1 and "2 finished, 0 resumed, 1 from the start" in said.err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_sweep_survives_every_death(cluster: Cluster, limited: Limited, tmp_path: Path, capfd: Any) -> None:
    sweep = sweep_on(cluster, tmp_path, "seed=0,1,2")
    parent = sweep.start()
    until(lambda: all(sweep.running(job) for job in range(3)), parent)
    os.kill(sweep.status(0)["pid"], signal.SIGKILL)  # a worker
    cluster.ask("scancel", "--signal=USR2", sweep.status(1)["slurm"])  # as at its time limit
    until(lambda: sweep.status(0)["state"] == "killed" and sweep.running(1, 2), parent)
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 130 and "Traceback" not in said, said
    assert "2 jobs stay in Slurm's queue, and that command waits for them" in said

    numbers = [sweep.status(job)["slurm"] for job in range(3)]
    parent = sweep.start()
    until(lambda: sweep.running(0, 2), parent)
    assert [sweep.status(job)["slurm"] for job in (1, 2)] == numbers[1:], "they are waited for"
    in_queue = cluster.ask("squeue", "--noheader", "--array", "--format=%i").split()
    assert sorted(in_queue) == sorted([sweep.status(0)["slurm"], *numbers[1:], limited[0].status(0)["slurm"]])
    parent.kill()
    _, said = parent.communicate(timeout=LIMIT)
    assert "2 jobs are in Slurm's queue already: they are waited for" in said

    cluster.ask("scontrol", "requeue", sweep.status(2)["slurm"])
    parent = sweep.start()
    until(lambda: sweep.running(2, 2), parent)
    sweep.slow.unlink()
    _, said = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 0 and "Traceback" not in said, said
    held = [sweep.status(job) for job in range(3)]
    assert [job["state"] for job in held] == ["finished"] * 3
    assert [job["attempts"] for job in held] == [2, 2, 2] and all(job["resumed"] for job in held)
    assert len({job["slurm"].partition("_")[0] for job in held}) == 2, "an array of three, then one job"
    for job in range(3):
        assert steps_of(sweep.folder / str(job)) == list(range(200))
        assert runs.equal(runs.weights(sweep.folder / str(job)), runs.weights(sweep.unbroken(capfd, job)))
    files = {path: path.stat().st_mtime_ns for path in sweep.folder.rglob("*") if path.is_file()}
    again = sweep.start()
    _, said = again.communicate(timeout=LIMIT)
    assert again.returncode == 0 and "is finished, all 3 jobs: nothing is started" in said
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.fixture(scope="module", autouse=True)
def limited(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """A sweep of one job that meets its time limit while other tests run.

    Slurm counts in minutes, and where the machine is busy a job may need most of one to begin."""
    limit = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=15"]
    sweep = sweep_on(cluster, tmp_path_factory.mktemp("limited"), "seed=0", *limit)
    sweep.words, sweep.training = ([*words, "checkpoint_every=1000"] for words in (sweep.words, sweep.training))
    parent = sweep.start()
    try:
        yield sweep, parent
    finally:
        parent.kill()
        parent.communicate()


def test_at_a_time_limit_a_job_is_queued_again_and_its_steps_never_go_back(limited: Limited, capfd: Any) -> None:
    sweep, parent = limited
    folder = sweep.folder / "0"
    until(lambda: sweep.status(0).get("attempts", 0) > 1)
    sweep.slow.unlink()
    _, said = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 0 and "Traceback" not in said, said
    assert sweep.status(0)["resumed"]
    files = sorted(folder.glob("tensorboard/events*"), key=lambda path: path.stat().st_mtime)
    parts = [EventAccumulator(str(path), {"scalars": 0}).Reload() for path in files]
    steps = [event.step for part in parts if "train/loss" in str(part.Tags()) for event in part.Scalars("train/loss")]
    assert len(parts) > 1 and steps == list(range(200)), "every part begins where the one before ended"
    assert runs.equal(runs.weights(folder), runs.weights(sweep.unbroken(capfd, 0)))


ALONE = """#!/bin/bash
#SBATCH --signal=USR2@120 --open-mode=append --requeue --output={folder}/said --cpus-per-task=1
if [ -f {run}/checkpoints/last.ckpt ]; then set -- run={run}; else set -- {words} hydra.run.dir={run}; fi
srun {python} {program} "$@"
code=$?
[ $code = 140 ] && scontrol requeue $SLURM_JOB_ID   # 128 + USR2: it has saved its state
exit $code
"""


def test_a_batch_script_of_one_run_goes_on(cluster: Cluster, tmp_path: Path, capfd: Any) -> None:
    sweep = sweep_on(cluster, tmp_path, "seed=0")
    run, script = tmp_path / "run", tmp_path / "script.sh"
    words = " ".join(f"'{word}'" for word in [*sweep.training, "seed=0"])
    program = runs.ROOT / "launch" / "train.py"
    script.write_text(ALONE.format(folder=tmp_path, run=run, words=words, python=sys.executable, program=program))
    done = subprocess.run(
        ["sbatch", "--parsable", str(script)], env=sweep.variables, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    number, said = done.stdout.strip(), tmp_path / "said"
    until(lambda: (run / "checkpoints" / "last.ckpt").is_file())
    cluster.ask("scancel", "--signal=USR2", number)
    until(lambda: "stopped by SIGUSR2 after step" in said.read_text())
    assert f"which is saved: go on by flowport train run={run}" in said.read_text()
    sweep.slow.unlink()
    until(lambda: (run / "metrics.json").is_file() and not cluster.ask("squeue", "--noheader", f"--jobs={number}"))
    assert steps_of(run) == list(range(200))
    shutil.rmtree(sweep.folder, ignore_errors=True)
    (sweep.folder / "0").mkdir(parents=True)
    (sweep.folder / "0" / "status.json").write_text(json.dumps({"overrides": ["seed=0"]}))
    assert runs.equal(runs.weights(run), runs.weights(sweep.unbroken(capfd, 0)))


def test_the_tasks_of_one_job_train_together(cluster: Cluster, tmp_path: Path) -> None:
    both = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    sweep = sweep_on(cluster, tmp_path, "seed=0", *both, "hydra.launcher.tasks_per_node=2", "trainer.max_steps=20")
    sweep.slow.unlink()
    parent = sweep.start()
    _, said = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 0 and sweep.status(0)["state"] == "finished", said
    assert "each of the 2 processes" in (sweep.folder / "0" / "output.txt").read_text()


def test_what_slurm_refuses_is_said(cluster: Cluster, tmp_path: Path, capfd: Any, monkeypatch: Any) -> None:
    words = ["-m", *TINY, *on_slurm(), f"hydra.sweep.dir={tmp_path}/sweep"]
    monkeypatch.setenv("SLURM_CONF", str(cluster.settings))
    said = runs.here(capfd, "train.py", *words, "hydra.launcher.partition=none_such")
    assert said.code == 2 and "Traceback" not in said.err
    assert "Slurm refuses the jobs of this sweep: " in said.err and "invalid partition" in said.err
    monkeypatch.setenv("PATH", str(tmp_path))
    said = runs.here(capfd, "train.py", *words)
    assert said.code == 2 and "needs Slurm's sbatch and squeue on the PATH" in said.err
