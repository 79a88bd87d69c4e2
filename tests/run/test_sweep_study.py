"""A sweep ends with its study, and what cannot be read of it is said by name."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from flowport.run import commands
from flowport.run.sweep_end import StudyAtEnd
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
    assert StudyAtEnd.folder is None
    GlobalHydra.instance().clear()


def test_a_sweep_of_which_nothing_finished_ends_with_a_sentence(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "empty").mkdir()
    StudyAtEnd.folder = tmp_path / "empty"
    with pytest.raises(SystemExit):
        commands._end_of_sweep()
    assert "holds no finished runs" in capfd.readouterr().err
