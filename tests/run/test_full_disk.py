"""A sweep on a full disk, a real file system of 100 kB, ends with sentences, and goes on when there is space again."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flowport.run import job_status, planned_job
from flowport.run.job_status import note_status, read_status, write_status
from flowport.run.planned_job import PlannedJob
from flowport.run.run_folder import RunFolder
from tests import runs

SMALL = ["trainer.max_steps=2", "gallery=false", "network.width=4", "network.depth=1", "logger=[]", "grid.steps=2"]


def mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None or not mount("-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)):
        pytest.skip("needs the right to mount a tmpfs (root)")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_sweep_on_a_full_disk_goes_on_when_there_is_space(disk: Path, capfd: Any) -> None:
    sweep = disk / "sweep"
    words = ["-m", *runs.TINY, runs.QUIET, *SMALL, "evaluation_items=16", "seed=0,1", "jobs=1"]
    words.append(f"hydra.sweep.dir={sweep}")
    said = runs.here(capfd, "train.py", *words)
    assert said.code == 1 and "Traceback" not in said.err and "1 of 2 jobs did not finish" in said.err, said.err
    assert "job 1 (seed=1) failed" in said.err and "No space left on device; what was saved before is whole" in said.err
    assert said.err.count("no table is written: ") == 1
    states = [json.loads((sweep / str(k) / "status.json").read_text())["state"] for k in (0, 1)]
    assert states == ["finished", "failed"]
    before = {path: path.stat().st_mtime_ns for path in (sweep / "0").rglob("*")}
    with suppress(OSError), (disk / "filling").open("wb", buffering=0) as file:
        file.write(bytes(200_000))
    assert "No space left on device; what was saved before is whole" in runs.here(capfd, "train.py", *words).sentence

    assert mount("-o", "remount,size=4m", str(disk))
    said = runs.here(capfd, "train.py", *words)
    assert said.code == 0 and "1 finished, 0 resumed, 1 from the start" in said.err, said.err
    assert {path: path.stat().st_mtime_ns for path in (sweep / "0").rglob("*")} == before
    assert (sweep / "1" / "metrics.json").is_file() and (sweep / "study.html").is_file()


def test_the_end_of_a_job_is_noted_over_its_status_where_there_is_no_space(tmp_path: Path, monkeypatch: Any) -> None:
    folder = RunFolder(tmp_path)
    write_status(folder, "running", {"overrides": ["seed=1"] * 20})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_status, "write_json", full)
    assert note_status(folder, "failed", {"error": "no space"})
    assert read_status(folder) == {"state": "failed", "error": "no space"}
    assert not note_status(folder, "failed", {"error": "x" * 10_000})
    assert read_status(folder)["error"] == "no space"


def test_a_dead_job_whose_death_cannot_be_noted_is_not_waited_for(tmp_path: Path, monkeypatch: Any) -> None:
    job = PlannedJob(0, ("seed=0",), RunFolder(tmp_path), "", ())
    write_status(job.folder, "running", {})
    monkeypatch.setattr(planned_job, "note_status", lambda *_: False)
    monkeypatch.setattr(planned_job.time, "sleep", lambda _: pytest.fail("it waits"))
    job.wait()
    assert job.state == "running"
