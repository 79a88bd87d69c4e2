"""``flowport tabulate`` says what became of every job of a sweep."""

import json
import math
from pathlib import Path
from typing import Any

import pandas

from flowport.run.job_status import write_status
from flowport.run.run_folder import PENDING, RunFolder
from flowport.run.sweep_job import step_of
from flowport.run.tabulating import read_jobs
from tests import runs


def job(folder: Path, name: str, words: list[str], numbers: dict[str, float] | None = None) -> Path:
    place = folder / name
    (place / ".hydra").mkdir(parents=True)
    (place / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    if numbers is not None:
        (place / "metrics.json").write_text(json.dumps(numbers))
    return place


def sweep(folder: Path) -> Path:
    for k, (coupling, seed) in enumerate((c, s) for c in ("exact", "independent") for s in (0, 1)):
        numbers = {"test/w2": k + 0.5, "test/nfe": 8.0, "train/seconds": 1.0 + k}
        job(folder, str(k), [f"coupling={coupling}", f"seed={seed}"], numbers)
    job(folder, "4", ["coupling=partial", "seed=0"]).joinpath("refused.txt").write_text("no mass to leave\n")
    failed = job(folder, "5", ["coupling=partial", "seed=1"])
    (failed / "status.json").write_text(json.dumps({"state": "failed", "error": "the loss is not finite\nat step 3"}))
    job(folder, "6", ["coupling=partial", "seed=2"])
    job(folder, "7", ["coupling=partial", "seed=3"]).joinpath("metrics.json").write_text("{")
    odd = job(folder, "8", ["coupling=partial", "seed=4"])
    (odd / "status.json").write_text(json.dumps({"state": "\x1b[31m", "error": ["a"]}))
    finished = job(folder, "9", ["coupling=exact", "seed=2"], {"test/w2": 1.0})
    (finished / "status.json").write_text(json.dumps({"state": "running", "error": None}))
    (folder / ".hydra").mkdir()
    return folder


def test_every_job_has_its_status_and_its_reason(tmp_path: Path) -> None:
    found = {one.name: (one.status, one.error) for one in read_jobs(sweep(tmp_path))}
    assert [found[str(k)][0] for k in range(4)] == ["finished"] * 4
    assert found["4"] == ("refused", "no mass to leave")
    assert found["5"] == ("failed", "the loss is not finite at step 3")
    assert found["6"][0] == found["8"][0] == "unfinished"
    assert found["7"][0] == "unreadable" and "not JSON" in found["7"][1]
    assert found["9"] == ("finished", ""), "its numbers are there"


def test_a_job_without_its_certificate_is_not_finished(tmp_path: Path) -> None:
    """It goes on from its training, also where the certificate failed; its numbers before it are in no table."""
    for name, state in (("0", "finished"), ("1", "failed")):
        place = RunFolder(job(tmp_path, name, ["seed=0"], {"test/w2": 1.0, PENDING: "certificate"}))
        write_status(place, state, {"config": "abc", "error": "no memory" if state == "failed" else None})
        assert step_of(place, "abc") == "anew", "without a checkpoint there is nothing to go on from"
        for file in (place.checkpoint, place.config):
            file.parent.mkdir(exist_ok=True)
            file.touch()
        assert step_of(place, "abc") == "resume"
    lost, failed = read_jobs(tmp_path)
    assert (lost.status, failed.status, failed.error) == ("unfinished", "failed", "no memory")
    assert "its certificate is missing: go on by flowport train run=" in lost.error and not lost.numbers


def test_the_command_writes_runs_differences_pivot_and_curves(tmp_path: Path, capfd: Any) -> None:
    folder = sweep(tmp_path)
    words = [
        "--metrics",
        "w2",
        "--against",
        "train/seconds",
        "nfe",
        "--pivot",
        "coupling",
        "seed",
        "--baseline",
        "first",
    ]
    said = runs.here(capfd, "tabulate.py", str(folder), *words)
    assert said.code == 0 and "left out of the table" in said.err and "Traceback" not in said.err
    assert "5 of 10 jobs have no numbers:" in said.out and "(coupling=partial seed=0): no mass to leave" in said.out
    assert "refused" in (folder / "table.md").read_text()
    frame = pandas.read_csv(folder / "runs.csv")
    assert len(frame) == 10 and frame["status"].value_counts()["finished"] == 5
    gaps = pandas.read_csv(folder / "differences.csv").set_index("coupling")
    assert gaps.loc["independent", "difference"] == 2.0 and gaps.loc["independent", "seeds"] == 2
    assert gaps.loc["independent", "minus"] == "exact" and math.isclose(gaps.loc["independent", "standard error"], 0)
    assert gaps.loc["independent", "within error"] == "no" and gaps.loc["exact", "within error"] == "yes"
    pivot = pandas.read_csv(folder / "pivot.csv")
    assert pivot["seed=1 mean"].tolist() == [1.5, 3.5]
    for picture in ("table.png", "curves.png", "pivot.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    said = runs.here(capfd, "tabulate.py", str(folder), "--pivot", "coupling", "nonsense")
    assert said.code == 2 and "no run of this sweep has an override nonsense" in said.err


def test_experiments_to_different_targets_are_not_compared(tmp_path: Path, capfd: Any) -> None:
    for k, (name, target) in enumerate((("a", "moons"), ("b", "moons"), ("c", "circles"), ("d", "circles"))):
        place = job(tmp_path, str(k), [f"experiment={name}", "seed=0"], {"test/w2": 1.0 + k})
        (place / ".hydra" / "config.yaml").write_text(f"target: {{_target_: {target}}}\n")
    assert runs.here(capfd, "tabulate.py", str(tmp_path)).code == 0
    table = (tmp_path / "table.md").read_text()
    assert [line.count("**") for line in table.splitlines()[2:6]] == [2, 0, 2, 0]
    held = pandas.read_csv(tmp_path / "differences.csv")
    assert len(held) == 4
