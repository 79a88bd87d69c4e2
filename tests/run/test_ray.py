"""Sweeps on a real Ray: a killed worker, a bad value and Ctrl-C lose nothing, and nothing is run twice."""

import importlib.util
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests import runs
from tests.run.slow_sweep import LIMIT, Sweep, steps_of, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray"),
]


def test_a_sweep_on_ray_survives(tmp_path: Path, capfd: Any) -> None:
    sweep = Sweep(tmp_path, dict(os.environ), ["hydra/launcher=ray", "jobs=2", "seed=0,-1,1"])
    parent = sweep.start()
    until(lambda: sweep.running(0) and sweep.running(2), parent)
    assert sweep.status(1)["state"] == "failed" and "seed=-1" in sweep.status(1)["error"]
    os.kill(sweep.status(0)["pid"], signal.SIGKILL)
    until(lambda: sweep.running(0, 2), parent)  # Ray runs it again, and it goes on
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 130 and "Traceback" not in said, said
    assert [sweep.status(job)["state"] for job in (0, 2)] == ["killed", "killed"]
    assert all("stopped by SIGINT after step" in sweep.status(job)["error"] for job in (0, 2))

    parent = sweep.start()
    until(lambda: sweep.running(0, 3) and sweep.running(2, 2), parent)
    parent.kill()
    parent.communicate(timeout=LIMIT)
    sweep.slow.unlink()
    parent = sweep.start()
    _, said = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 1 and "1 of 3 jobs did not finish" in said and "Traceback" not in said, said
    for job in (0, 2):
        assert sweep.status(job)["state"] == "finished" and sweep.status(job)["resumed"]
        assert steps_of(sweep.folder / str(job)) == list(range(200))
        assert runs.equal(runs.weights(sweep.folder / str(job)), runs.weights(sweep.unbroken(capfd, job)))
    files = {path: path.stat().st_mtime_ns for job in (0, 2) for path in (sweep.folder / str(job)).rglob("*")}
    parent = sweep.start()
    _, said = parent.communicate(timeout=LIMIT)
    assert "2 finished, 0 resumed, 1 from the start" in said
    assert {path: path.stat().st_mtime_ns for path in files} == files
