"""Every command of the guide on own data runs, on tiny folders and with few steps."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.distribution.folders import pictures, recordings, shapes
from tests.runs import ROOT

GUIDE = (ROOT / "docs" / "guides" / "own_data.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("flowport ")
]
FEW = [
    "trainer.max_steps=2",
    "data.batch=8",
    "data.validation_items=8",
    "evaluation_items=8",
    "threads=1",
    "grid.steps=2",
    "+trainer.enable_progress_bar=false",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("guide")
    for name in ("summer", "winter", "emoji_google", "emoji_apple", "new_pictures"):
        for kind in ("a", "b"):
            pictures(home / name / kind, 12)
        (home / name / "a" / "001.png").rename(home / name / "0001.png")
    for name in ("carlo", "menardi"):
        recordings(home / name)
    for name in ("robots", "objects"):
        shapes(home / name)
    np.save(home / "mine.npy", np.random.default_rng(0).normal(size=(60, 2)))
    return home


def test_the_guide_has_commands():
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_a_command_of_the_guide_runs(number, place, monkeypatch):
    """In order: later commands translate by the runs of earlier ones."""
    words = shlex.split(COMMANDS[number])[1:]
    if "distribution@target=hugging_face" in words:
        pytest.importorskip("datasets")
    if words[0] == "train" and "--cfg" not in words:
        experiment = "experiment=none" in words
        words = [w for w in words if not w.startswith("trainer.max_steps")]
        words += [w for w in FEW if not (experiment and w.startswith("grid"))]
        if "-m" in words:
            words += ["hydra.sweep.dir=sweep", "seed=0", "coupling=independent,exact"]
    if any(word.startswith("output=") and (place / word[7:]).is_dir() for word in words):
        words = [*[w for w in words if not w.startswith("overwrite")], "overwrite=true"]
    words = [word.replace("experiment=<name>", "experiment=images") for word in words]
    done = subprocess.run(
        [sys.executable, "-m", "flowport.run", *words],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FLOWPORT_HOME": str(place / "home")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
