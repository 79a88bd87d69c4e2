"""Sweeps on real processes that last as long as a test needs them to, and what of them does not depend on the clock."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import runs

TINY = [*runs.TINY, runs.QUIET, "gallery=false"]
PLANE = ["-m", "sweep=plane", *TINY, "coupling=exact", "path=linear"]
"""The sweep of the guides, made small: seeds are left to vary."""
CLOCK = r"second|step_ms|peak|memory|host|attempts|slurm|folder|job"
LIMIT = 300.0
"""Longest wait in seconds: on a machine that does other work too, a job of Slurm may need minutes to begin."""


class Sweep:
    """The command of a sweep whose steps are slow while ``<folder>/slow`` exists."""

    def __init__(self, folder: Path, variables: dict[str, str], words: Sequence[str]) -> None:
        self.place, self.folder = folder, folder / "sweep"
        path = os.pathsep.join([str(runs.ROOT), *filter(None, [variables.get("PYTHONPATH")])])
        self.variables = {**variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "FLOWPORT_TRUST": "tests"}
        self.slow = folder / "slow"
        self.slow.touch()
        own = [f"+callback.slow={{_target_: tests.run.slow_steps.SlowSteps, path: {self.slow}}}"]
        steps = ["trainer.max_steps=200", "checkpoint_every=2", "trainer.log_every_n_steps=1", "evaluation_items=16"]
        self.training = [*TINY, *own, *steps]
        self.words = [*self.training, *words, f"hydra.sweep.dir={self.folder}"]

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", runs.HEARD, "train", "-m", *self.words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.place, env=self.variables, text=True, stdout=pipe, stderr=pipe)

    def status(self, job: int) -> dict[str, Any]:
        place = self.folder / str(job) / "status.json"
        return json.loads(place.read_text()) if place.is_file() else {}

    def running(self, job: int, attempt: int = 1) -> bool:
        """Whether a job has saved a checkpoint in one of its attempts."""
        held, saved = self.status(job), self.folder / str(job) / "checkpoints" / "last.ckpt"
        if held.get("state") != "running" or held["attempts"] < attempt or not saved.is_file():
            return False
        began = (self.folder / str(job) / "status.json").stat().st_mtime
        return saved.stat().st_mtime > began

    def unbroken(self, capfd: Any, job: int) -> Path:
        """The same run without a sweep or a stop."""
        folder = self.place / f"unbroken{job}"
        words = [word for word in self.status(job)["overrides"] if word.startswith("seed=")]
        said = runs.here(capfd, "train.py", *self.training, *words, f"hydra.run.dir={folder}")
        assert said.code == 0, said.err
        return folder


def until(condition: Callable[[], bool], *alive: subprocess.Popen[str]) -> None:
    late = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < late, "it has lasted too long"
        for process in alive:
            assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def steps_of(folder: Path) -> list[int]:
    """Steps of the loss as TensorBoard reads them."""
    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0}).Reload()
    return [event.step for event in events.Scalars("train/loss")]


def table(folder: Path) -> pandas.DataFrame:
    """runs.csv without what depends on the clock and the machine."""
    found = pandas.read_csv(folder / "runs.csv")
    return found[[name for name in found.columns if not found[name].isna().all()]].drop(
        columns=list(found.filter(regex=CLOCK).columns)
    )
