"""The lines of the jobs that run, and the budget of a sweep by its first steps."""

import json
from pathlib import Path
from typing import Any

from flowport.run import sweep_progress
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
        "budget: 5 jobs of 1.5 min of training, about 4.5 min in all with 2 at a time (by the first steps, 90 ms "
        "each), and measuring on top"
    ]
    assert lines.of([slow, fast]) == []
    monkeypatch.setattr(sweep_progress, "SAID", 0.0)
    damaged = job(tmp_path, 2, step="x")
    assert lines.of([slow, fast, damaged]) == [
        "job 0 (seed=0) step 100 of 1000, about 1.8 min of training left",
        "job 1 (seed=1) step 200 of 1000, about 0.8 min of training left",
    ]
