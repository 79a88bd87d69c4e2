"""The same sweep gives the same table, bit by bit, wherever its jobs run; test_slurm.py has Slurm's."""

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pandas
import pytest

from flowport.run.slurm_jobs import queued
from tests import runs
from tests.run.slow_sweep import PLANE, table

WORDS = [*PLANE, "seed=0,1", "jobs=2"]
NEEDS = {"local": "flowport", "submitit_local": "hydra_plugins.hydra_submitit_launcher", "ray": "ray"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("basic")


@pytest.mark.parametrize("launcher", ["local", "submitit_local", pytest.param("ray", marks=pytest.mark.cluster)])
def test_tables_are_equal(launcher: str, alone: Path, tmp_path: Path, capfd: Any) -> None:
    if importlib.util.find_spec(NEEDS[launcher]) is None:
        pytest.skip(f"needs {NEEDS[launcher]}")
    for name, folder in (("basic", alone), (launcher, tmp_path)):
        if not (folder / "runs.csv").is_file():
            said = runs.here(capfd, "train.py", *WORDS, f"hydra/launcher={name}", f"hydra.sweep.dir={folder}")
            assert said.code == 0 and "Traceback" not in said.err, said.err
    one, other = table(alone), table(tmp_path)
    assert len(one) == 2 and one.select_dtypes("number").notna().sum().sum() > 4
    pandas.testing.assert_frame_equal(one, other, check_exact=True)


def test_slurm_that_does_not_answer_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "squeue: error: no host\nsqueue: error: no record\nsqueue: error: no file\nsqueue: fatal: no configuration\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", said))
    with pytest.raises(OSError, match=r"^squeue: fatal: no configuration$"):
        queued()
