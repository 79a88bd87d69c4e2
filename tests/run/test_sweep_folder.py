"""A sweep's folder is its state, on real processes: stopped, killed, refused, repeated, and never run twice."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from flowport.errors import Stopped
from flowport.run import sweep_job
from flowport.run.claim import Claim
from flowport.run.job_status import read_status, write_status
from flowport.run.run_folder import RunFolder
from tests import runs

FAST = [*runs.TINY, runs.QUIET, "trainer.max_steps=2", "gallery=false"]
WORDS = [*FAST, "trainer.max_steps=1000", "checkpoint_every=50"]
JOBLIB = importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher")


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", runs.HEARD, "train", "-m", *WORDS, *words]
    variables, pipe = {**os.environ, "OMP_NUM_THREADS": "1"}, subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=variables, text=True, stdout=pipe, stderr=pipe)


def status(folder: Path, job: int) -> dict[str, Any]:
    place = folder / str(job) / "status.json"
    return json.loads(place.read_text()) if place.is_file() else {}


def wait(process: subprocess.Popen[str], until: Callable[[], bool]) -> None:
    while not until():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def saved(folder: Path, job: int) -> bool:
    return (folder / str(job) / "checkpoints" / "last.ckpt").is_file() and status(folder, job)["state"] == "running"


def kill_one(sweep: Path, process: subprocess.Popen[str]) -> tuple[int, str]:
    """SIGKILL to the process of job 0 or 1, whichever runs; its number, and what the sweep says until its end."""
    wait(process, lambda: any(status(sweep, k)["state"] == "running" for k in (0, 1)))
    victim = next(k for k in (0, 1) if status(sweep, k)["state"] == "running")
    os.kill(status(sweep, victim)["pid"], signal.SIGKILL)
    return victim, process.communicate(timeout=120)[1]


def test_a_sweep_that_is_stopped_and_killed_goes_on_by_the_same_command(tmp_path: Path, capfd: Any) -> None:
    sweep = tmp_path / "sweep"
    words = ["seed=0,1,2", f"hydra.sweep.dir={sweep}", "jobs=2"]
    process = started(tmp_path, *words)
    wait(process, lambda: saved(sweep, 0) and saved(sweep, 1))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.count("stopped by SIGINT") == 1 and "Traceback" not in said
    assert "with 0 of 3 jobs finished" in said and "go on by the same command, " in said and "seed=0,1,2" in said
    assert [status(sweep, k)["state"] for k in range(3)] == ["killed", "killed", "queued"]
    assert "train run=" not in said and "min left" not in said
    assert all("train run=" not in status(sweep, k)["error"] for k in (0, 1))

    lives = Claim(sweep)  # as another sweep has it while it runs
    assert lives.take() is None
    assert "is being written by another sweep" in runs.here(capfd, "train.py", "-m", *WORDS, *words).sentence
    lives.release()

    process = started(tmp_path, *words, "jobs=3")
    victim, said = kill_one(sweep, process)
    assert process.returncode == 1 and "Traceback" not in said
    assert "going on in" in said and "0 finished, 2 resumed, 1 from the start" in said
    assert "1 of 3 jobs did not finish" in said and "its process was ended by SIGKILL" in said
    others = [k for k in range(3) if k != victim]
    assert [status(sweep, k)["state"] for k in others] == ["finished"] * 2
    before = {k: (sweep / str(k) / "metrics.json").stat().st_mtime_ns for k in others}

    said = runs.here(capfd, "train.py", "-m", *WORDS, *words)
    assert said.code == 0 and "2 finished, 1 resumed, 0 from the start" in said.err
    assert status(sweep, victim)["state"] == "finished" and status(sweep, victim)["attempts"] == 3
    files = {path: path.stat().st_mtime_ns for path in sweep.rglob("*") if path.is_file()}
    said = runs.here(capfd, "train.py", "-m", *WORDS, *words)
    assert said.code == 0 and "is finished, all 3 jobs: nothing is started" in said.err
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*") if path.is_file()} == files
    assert {k: (sweep / str(k) / "metrics.json").stat().st_mtime_ns for k in others} == before

    said = runs.here(capfd, "train.py", *WORDS, f"seed={victim}", f"hydra.run.dir={tmp_path}/unbroken")
    assert runs.equal(runs.weights(sweep / str(victim)), runs.weights(tmp_path / "unbroken"))
    held = status(sweep, victim)
    assert held["nfe"] > 0 and held["seconds"] > 0 and held["peak_memory_mib"] > 50 and held["built_by"]["torch"]

    said = runs.here(capfd, "train.py", "-m", *WORDS, "seed=0,3,2", f"hydra.sweep.dir={sweep}")
    assert "job 1 of this sweep (seed=3) cannot go on" in said.sentence and "another config (seed=1)" in said.sentence
    assert {k: (sweep / str(k) / "metrics.json").stat().st_mtime_ns for k in others} == before


@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_a_bad_value_spares_the_other_jobs_and_is_listed(launcher: str, tmp_path: Path, capfd: Any) -> None:
    words = ["-m", *FAST, "grid.steps=0,8", f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path}/sweep", "jobs=1"]
    said = runs.here(capfd, "train.py", *words)
    assert said.code == 1 and "Traceback" not in said.err and "1 of 2 jobs did not finish" in said.err
    held = [status(tmp_path / "sweep", k) for k in range(2)]
    assert [job["state"] for job in held] == ["failed", "finished"]
    assert held[0]["error"] == "a time grid needs at least 1 step, not 0"
    assert "FlowportError" in (tmp_path / "sweep" / "0" / held[0]["traceback"]).read_text()
    assert not (tmp_path / "sweep" / "1" / "gallery.png").exists()
    assert "| w2 |" in said.out and "a time grid needs at least 1 step" in said.out
    assert f"study.html are in {tmp_path}/sweep" in said.err
    said = runs.here(capfd, "train.py", *words)
    assert said.code == 1 and "1 finished, 0 resumed, 1 from the start" in said.err
    assert [status(tmp_path / "sweep", k)["attempts"] for k in range(2)] == [2, 1]
    if launcher == "basic":
        said = runs.here(capfd, "train.py", *words, "restart=true")
        assert said.code == 1 and "2 jobs in" in said.err
        assert [status(tmp_path / "sweep", k)["attempts"] for k in range(2)] == [1, 1]


@pytest.mark.skipif(JOBLIB is None, reason="needs hydra-joblib-launcher")
def test_a_killed_worker_of_joblib_s_ends_no_other_job_that_waits(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = started(tmp_path, *launcher, "seed=0,1,2", f"hydra.sweep.dir={sweep}")
    wait(process, lambda: saved(sweep, 0) and saved(sweep, 1))
    os.kill(status(sweep, 0)["pid"], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in said
    assert [status(sweep, k)["state"] for k in (0, 2)] == ["killed", "finished"]  # joblib ends the neighbour as well
    assert re.search(r"job 2 \(seed=2\) finished", said) and "did not finish" in said


def test_a_launcher_that_is_not_installed_is_named(tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = runs.here(capfd, "train.py", "-m", *FAST, "hydra/launcher=ray", f"hydra.sweep.dir={tmp_path}/sweep")
    assert said.code == 2 and 'hydra/launcher=ray needs Ray: pip install "flowport[ray]"' in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("jobs", ["0", "-1", "1.5", "null", "two"])
def test_a_number_of_jobs_that_is_none_is_refused_before_anything_starts(jobs: str, tmp_path: Path, capfd: Any) -> None:
    said = runs.here(capfd, "train.py", "-m", *FAST, "seed=0,1", f"jobs={jobs}", f"hydra.sweep.dir={tmp_path}/sweep")
    assert said.sentence.startswith(f"jobs={jobs} is ") and "jobs must be" in said.sentence
    assert not (tmp_path / "sweep").exists()


def test_a_job_that_a_command_of_its_own_finished_is_not_run_again(tmp_path: Path, capfd: Any) -> None:
    sweep = tmp_path / "sweep"
    words = ["-m", *FAST, "hydra/launcher=basic", f"hydra.sweep.dir={sweep}", f"hydra.run.dir={sweep}/0"]
    assert runs.here(capfd, "train.py", *words).code == 0
    job = RunFolder(sweep / "0")
    state = {**read_status(job), "error": "stopped by SIGINT"}
    del state["state"]
    write_status(job, "killed", state)
    job.metrics.unlink()
    lives = Claim(job.path)  # as the sweep has it while it runs the job
    assert lives.take() is None
    assert "a job of a sweep: wait for it" in runs.here(capfd, "train.py", f"run={job}").sentence
    lives.release()
    assert runs.here(capfd, "train.py", f"run={job}", "trainer.max_steps=2").code == 0
    assert status(sweep, 0)["state"] == "killed"  # with other values it need not be the sweep's job
    assert runs.here(capfd, "train.py", f"run={job}").code == 0
    held = status(sweep, 0)
    assert held["state"] == "finished" and held["attempts"] == 2 and "error" not in held and held["nfe"] > 0
    measured = job.metrics.stat().st_mtime_ns
    said = runs.here(capfd, "train.py", *words)
    assert said.code == 0 and "is finished, all 1 job: nothing is started" in said.err
    assert job.metrics.stat().st_mtime_ns == measured


def test_a_stopped_job_of_a_sweep_names_no_command_of_its_own(tmp_path: Path) -> None:
    def stops(*_: Any) -> None:
        raise Stopped(signal.SIGINT, "after step 3, which is saved: go on by flowport train run=x")

    with pytest.raises(Stopped, match=r"after step 3, which is saved$"):
        sweep_job._followed(stops, OmegaConf.create(), RunFolder(tmp_path), {})
    assert read_status(RunFolder(tmp_path))["error"] == "stopped by SIGINT after step 3, which is saved"
