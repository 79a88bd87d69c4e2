"""The lines of the jobs that run, and the budget of a sweep by its first steps."""

import json
from pathlib import Path
from typing import Any

from flowport.errors import Stopped
from flowport.run import sweep_progress, sweep_report
from flowport.run.job_status import write_status
from flowport.run.planned_job import PlannedJob
from flowport.run.run_folder import RunFolder
from flowport.run.sweep_progress import ProgressLines


def job(folder: Path, number: int, **note: Any) -> PlannedJob:
    place = RunFolder(folder / str(number)).create()
    if note:
        place.progress.write_text(json.dumps(note))
    return PlannedJob(number, (f"seed={number}", "a=b"), place, "", (), frozenset({"a=b"}))


def test_the_budget_is_said_once_and_every_job_has_its_line(tmp_path: Path, monkeypatch: Any) -> None:
    lines = ProgressLines(5, 2)
    assert lines.of([job(tmp_path, 0)]) == []  # still building
    slow = job(tmp_path, 0, step=100, steps=1000, step_seconds=0.12)
    fast = job(tmp_path, 1, step=200, steps=1000, step_seconds=0.06)
    assert lines.of([slow, fast]) == [
        "budget: 5 jobs of 1.5 min of training, about 3.8 min are left in all with 2 at a time (by the first steps, "
        "90 ms each), and measuring on top"
    ]
    assert lines.of([slow, fast]) == []
    monkeypatch.setattr(sweep_progress, "SAID", 0.0)
    damaged = job(tmp_path, 2, step="x")
    assert lines.of([slow, fast, damaged]) == [
        "job 0 (seed=0) step 100 of 1000, about 1.8 min of training left",
        "job 1 (seed=1) step 200 of 1000, about 0.8 min of training left",
    ]


def test_the_budget_of_a_sweep_that_goes_on_counts_what_is_left(tmp_path: Path) -> None:
    late = job(tmp_path, 0, step=740, steps=1000, step_seconds=6.0)
    assert "budget: 1 job of 100.0 min of training, about 26.0 min are left" in ProgressLines(1, 2).of([late])[0]
    assert "about 52.0 min are left" in ProgressLines(2, 1).of([late], begun=1)[0]
    assert "budget: 2 jobs of 100.0 min of training, about 126.0" in ProgressLines(5, 1).of([late], ended=3)[0]


def watched_to_the_end(jobs: list[PlannedJob], capfd: Any) -> str:
    with sweep_report.watched(jobs, 1, 4):
        for one, state, seconds in zip(jobs, ("failed", "finished", "killed"), (0.1, 600.0, 5.0), strict=True):
            write_status(one.folder, state, {"seconds": seconds})
    return str(capfd.readouterr().err)


def test_the_time_that_is_left_is_told_by_finished_jobs_alone(tmp_path: Path, capfd: Any, monkeypatch: Any) -> None:
    jobs = [job(tmp_path, k) for k in range(3)]
    said = watched_to_the_end(jobs, capfd)
    assert "[1/4] job 0 (seed=0) failed after 0 s: \n" in said
    assert "[2/4] job 1 (seed=1) finished after 600 s, about 20.0 min left" in said
    monkeypatch.setattr(Stopped, "received", 2)  # Ctrl-C
    for one in jobs:
        one.folder.status.unlink()
    assert "min left" not in watched_to_the_end(jobs, capfd)
