"""Tiny runs and command lines for tests: eight Gaussians to moons, twenty steps."""

import logging
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from flowport.run.run_folder import RunFolder
from flowport.run.train import train

ROOT = Path(__file__).parents[1]
TINY = [
    "experiment=eight_gaussians_to_moons",
    "trainer.max_steps=20",
    "evaluation_items=64",
    "data.batch=32",
    "data.validation_items=64",
    "metric=[wasserstein]",
    "threads=1",
    "grid.steps=8",
    "checkpoint_every=7",
]
QUIET = "+trainer.enable_progress_bar=false"
NOTHING_BUT_STEPS: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
}
"""Options of Lightning's Trainer by which it writes, shows and validates nothing."""


def configured(*words: str) -> DictConfig:
    """The config of a tiny run, as the command line would compose it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", [*TINY, QUIET, *words])


def prepared(folder: Path, *words: str) -> DictConfig:
    """The same, saved in its folder as Hydra does."""
    config = configured(*words)
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    return config


def run(folder: Path, *words: str) -> dict[str, Any]:
    """Train a tiny run in this process."""
    return train(prepared(folder, *words), RunFolder(folder))


def weights(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit equality of two state dicts that are not empty."""
    return bool(a) and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def measured(numbers: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the clock."""
    return {k: v for k, v in numbers.items() if not k.endswith(("seconds", "step_ms"))}


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file of a folder with the hash of its bytes."""
    return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@dataclass
class Said:
    code: int
    err: str
    out: str

    @property
    def sentence(self) -> str:
        """The one sentence; fails unless stderr holds it alone, without a traceback."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("flowport: ")]
        assert len(lines) == 1, self.err
        assert self.err.strip() == lines[0], f"more than one sentence: {self.err}"
        assert self.code == 2
        return lines[0].removeprefix("flowport: ")


HEARD = """
import runpy, signal

for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("flowport.run", run_name="__main__", alter_sys=True)
"""
"""Signals act on the run also where this process ignores them, as one in the background of a shell does."""


@contextmanager
def _process_state() -> Iterator[None]:
    path, variables, handlers = list(sys.path), dict(os.environ), list(logging.getLogger().handlers)
    try:
        yield
    finally:
        logging.getLogger().handlers[:] = handlers  # without Hydra's, to a stream that pytest closes
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(variables)
        GlobalHydra.instance().clear()


def here(capfd: Any, script: str, *words: str) -> Said:
    """The launcher with these words, run by runpy in this process: a command line without its start."""
    code = 0
    GlobalHydra.instance().clear()
    capfd.readouterr()
    with _process_state(), mock.patch.object(sys, "argv", [str(ROOT / "launch" / script), *words]):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
    out, err = capfd.readouterr()
    return Said(code, err, out)


def command(script: str, *words: str, before: str = "") -> Said:
    """The launcher as a process of its own; ``before`` is Python that runs in it first."""
    start = [sys.executable, f"launch/{script}"]
    if before:
        go = f"{before}\nimport runpy, sys\nsys.argv = ['launch/{script}', *sys.argv[1:]]\n"
        start = [sys.executable, "-c", go + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    done = subprocess.run(
        [*start, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return Said(done.returncode, done.stderr, done.stdout)


def killed(program: str, *words: str) -> None:
    """A Python program with these words in a process of its own, which kills itself."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
