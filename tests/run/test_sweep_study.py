"""A sweep ends with its study, and what cannot be read of it is said by name."""

import errno
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hydra.core.global_hydra import GlobalHydra

from flowport.run import tabulating
from flowport.run.planned_job import PlannedJob
from flowport.run.run_folder import RunFolder
from flowport.run.sweep_end import ended
from tests import runs
from tests.distribution.folders import pictures

ITEMS = "item,distance,distance_untranslated\n" + "".join(f"{k}.png,{k},{k + 1}\n" for k in range(20))


def job(folder: Path, name: str, items: str | bytes | None, coupling: str = "exact") -> Path:
    place = folder / name
    (place / ".hydra").mkdir(parents=True)
    (place / ".hydra" / "overrides.yaml").write_text(f"- coupling={coupling}\n- seed=0\n")
    (place / "metrics.json").write_text(json.dumps({"test/w2": 1.0}))
    if items is not None:
        (place / "items.csv").write_bytes(items if isinstance(items, bytes) else items.encode())
    return place


def test_odd_tables_are_left_out_by_name(tmp_path: Path, capfd: Any) -> None:
    job(tmp_path, "0", ITEMS)
    job(tmp_path, "1", ITEMS, "independent")
    odd: list[str | bytes | None] = [
        None,
        "",
        b"\xff\xfe",
        "item,x\n1\n",
        "item,rank\na,word\n",
        'item,"\n',
        "item,x\na,1\na,2\n",
    ]
    for k, text in enumerate(odd):
        job(tmp_path, str(2 + k), text)
    job(tmp_path, "20", None).joinpath("items.csv").symlink_to(tmp_path / "0" / "items.csv")
    os.mkfifo(job(tmp_path, "21", None) / "items.csv")
    (tmp_path / "22" / ".hydra").mkdir(parents=True)
    (tmp_path / "22" / ".hydra" / "overrides.yaml").write_text("- coupling=class_conditional\n- seed=0\n")
    (tmp_path / "22" / "refused.txt").write_text("no\x1b classes\n")
    said = runs.here(capfd, "tabulate.py", str(tmp_path))
    assert said.code == 0, said.err
    assert said.err.count("left out of the study") == len(odd) + 2 and "Traceback" not in said.err
    page = (tmp_path / "study.md").read_text()
    assert "coupling=exact is best" in page or "no setting is best" in page
    assert "job 22 (coupling=class_conditional seed=0), which was refused: no� classes" in page
    assert str(tmp_path / "study.html") in said.out


def test_runs_without_a_common_item_and_sweeps_without_items_have_no_study(tmp_path: Path, capfd: Any) -> None:
    job(tmp_path, "0", ITEMS)
    job(tmp_path, "1", ITEMS.replace(".png", ".jpg"), "independent")
    said = runs.here(capfd, "tabulate.py", str(tmp_path))
    assert said.code == 0 and "no study is written: the runs of this sweep have no held-out item" in said.err
    (tmp_path / "0" / "items.csv").unlink()
    (tmp_path / "1" / "items.csv").unlink()
    said = runs.here(capfd, "tabulate.py", str(tmp_path))
    assert said.code == 0 and said.err == "" and not (tmp_path / "study.html").exists()


def test_two_folders_of_pictures_are_studied_by_one_command(tmp_path: Path, capfd: Any) -> None:
    """Without class folders: class_conditional is refused, which the status says, and the others are compared."""
    for side in ("source", "target"):
        pictures(tmp_path / side, 40)
    words = [
        *("-m", "sweep=own_couplings", "experiment=images", "hydra/launcher=basic"),
        *(f"{side}.path={tmp_path / side}" for side in ("source", "target")),
        *("source.size=8", "target.size=8", "trainer.max_steps=2", "grid.steps=2", "seed=0", runs.QUIET),
        *("data.batch=4", "data.pool=1", "data.validation_items=4", f"hydra.sweep.dir={tmp_path}/sweep"),
    ]
    said = runs.here(capfd, "train.py", *words)
    assert said.code == 1 and "1 of 3 jobs did not finish" in said.err, said.err
    page = (tmp_path / "sweep" / "study.md").read_text()
    assert "rank of the true partner" in page and "coupling=independent" in page
    assert "which failed: pairing=class_matched needs" in page and "peak_memory_mib" in page
    assert (tmp_path / "sweep" / "study.html").stat().st_size > 10_000
    assert said.err.count("study.html are in") == 1
    GlobalHydra.instance().clear()


def planned(place: Path, state: str) -> PlannedJob:
    (place / "status.json").write_text(json.dumps({"state": state, "error": "no classes"}))
    return PlannedJob(int(place.name), ("seed=0",), RunFolder(place), "", ())


def test_every_sweep_ends_with_its_tables_made_once_where_a_job_finished(tmp_path: Path, capfd: Any) -> None:
    first, second = job(tmp_path, "0", None), job(tmp_path, "1", ITEMS, "independent")
    (first / "metrics.json").unlink()
    failed = planned(first, "failed")
    assert not ended(tmp_path, [failed, planned(second, "killed")])
    said = capfd.readouterr()
    assert "2 of 2 jobs did not finish" in said.err and "are in" not in said.err and not said.out
    jobs = [failed, planned(second, "finished")]
    assert not ended(tmp_path, jobs)
    said = capfd.readouterr()
    assert "1 of 2 jobs did not finish" in said.err and f"study.html are in {tmp_path}" in said.err
    assert "| independent |" in said.out and "no classes" in said.out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not ended(tmp_path, jobs)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    said = capfd.readouterr()
    assert not said.out and f"study.html are in {tmp_path}" in said.err
    (first / "metrics.json").write_text(json.dumps({"test/w2": 2.0}))
    assert ended(tmp_path, [planned(first, "finished"), jobs[1]])
    assert (tmp_path / "runs.csv").read_text().count("finished") == 2


def test_a_full_disk_at_the_end_is_a_sentence_and_numbers_that_nobody_compares_are_none(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = planned(job(tmp_path, "0", None), "finished")
    full = OSError(errno.ENOSPC, "No space left on device", "table.png")
    monkeypatch.setattr(tabulating, "write_tables", Mock(side_effect=full))
    assert not ended(tmp_path, [done])
    said = capfd.readouterr().err
    assert said == (
        "flowport: no table is written: table.png cannot be written: No space left on device; what was saved before "
        "is whole\n"
    )
    done.folder.write_metrics({"arena/error": 1.0})
    assert ended(tmp_path, [done]) and capfd.readouterr().err == ""
