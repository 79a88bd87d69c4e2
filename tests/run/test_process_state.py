"""Jobs of one process: none sees what another one left, and a process whose memory has grown is replaced."""

import os
import pickle
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
import torch

from flowport.run import local_workers
from flowport.run.local_workers import LocalWorkers
from flowport.run.process_state import MemoryWatch, resident, unchanged_process
from tests import runs
from tests.run.test_sweep_folder import FAST, status


def state() -> dict[str, Any]:
    return {
        "random": random.getstate()[1],
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "kind": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "products": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "benchmark": torch.backends.cudnn.benchmark,
        "strict": torch.are_deterministic_algorithms_enabled(),
        "filters": list(warnings.filters),
        "variables": dict(os.environ),
        "place": Path.cwd(),
        "path": list(sys.path),
        "words": list(sys.argv),
        "style": dict(matplotlib.rcParams),
        "figures": matplotlib.pyplot.get_fignums(),
    }


def spoil(folder: Path) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    warnings.filterwarnings("error", "a job's own")
    os.environ["OF_A_JOB"] = "1"
    os.environ.pop("HOME", None)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv.append("of_a_job")
    matplotlib.rcParams["lines.linewidth"] = 17.0
    matplotlib.pyplot.figure()


def test_a_job_leaves_its_process_as_it_was(tmp_path: Path) -> None:
    matplotlib.pyplot.close("all")
    before = state()
    after = dict[str, Any]()

    def job() -> None:
        with unchanged_process():
            spoil(tmp_path)
            after.update(state())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        job()
    assert [name for name in before if before[name] == after[name]] == []  # what is compared does change
    assert state() == before


def test_a_process_is_replaced_after_its_jobs_or_where_its_memory_has_grown() -> None:
    watch = MemoryWatch(jobs=3, growth=1e6)
    assert [watch.worn() for _ in range(3)] == [False, False, True]
    watch = MemoryWatch(jobs=100, growth=64.0)
    assert not watch.worn()
    held = torch.ones(2**25)  # 128 MiB
    assert resident() - watch.first > 100
    assert watch.worn()
    del held


SERVER = """
import os, pickle, sys
pickle.load(sys.stdin.buffer)
while True:
    try:
        job = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    if job == "die":
        os.kill(os.getpid(), 9)
    sys.stdout.buffer.write(pickle.dumps(((job, os.getpid()), job == "last")))
    sys.stdout.buffer.flush()
"""


def test_a_worn_process_is_followed_by_a_new_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(local_workers, "PROGRAM", SERVER)
    found = LocalWorkers(pickle.dumps({}), 1, tmp_path / "log").run([1, 2, "last", 3, "die", 4])
    assert [value[0] for value in found if isinstance(value, tuple)] == [1, 2, "last", 3, 4]
    assert str(found[4]) == "SIGKILL"
    first, second, third = found[0][1], found[3][1], found[5][1]
    assert found[1][1] == found[2][1] == first
    assert len({first, second, third}) == 3


def test_jobs_of_one_process_equal_jobs_of_their_own(tmp_path: Path, capfd: Any) -> None:
    sweep, words = tmp_path / "sweep", [*FAST, "prediction=target,velocity", "ema_decay=0.5,0.9"]
    said = runs.here(capfd, "train.py", "-m", *words, f"hydra.sweep.dir={sweep}", "jobs=1")
    assert said.code == 0
    assert len({status(sweep, k)["pid"] for k in range(4)}) == 1
    for k, own in ((1, ("target", 0.9)), (3, ("velocity", 0.9))):
        alone = [*FAST, f"prediction={own[0]}", f"ema_decay={own[1]}", f"hydra.run.dir={tmp_path}/{k}"]
        runs.here(capfd, "train.py", *alone)
        assert runs.equal(runs.weights(sweep / str(k)), runs.weights(tmp_path / str(k)))
        held = [runs.RunFolder(folder).read_metrics() for folder in (sweep / str(k), tmp_path / str(k))]
        assert runs.measured(held[0]) == runs.measured(held[1])
