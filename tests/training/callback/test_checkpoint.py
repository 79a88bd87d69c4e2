"""A checkpoint on disk is always a whole one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flowport.errors import FlowportError
from flowport.training.callback import AtomicCheckpointIO
from flowport.training.callback.checkpoint import admitted
from tests import runs

OLD, NEW = ({"state_dict": torch.arange(n)} for n in (5.0, 2e5))


def half(held: Any, file: Any) -> None:
    """torch.save that writes a beginning."""
    file.write(b"PK" * 1000)
    file.flush()


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, store = tmp_path / "checkpoints" / "last.ckpt", AtomicCheckpointIO()
    store.save_checkpoint(OLD, path)

    def fail(held: Any, file: Any) -> None:
        half(held, file)
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        store.save_checkpoint(NEW, path)
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.equal(store.load_checkpoint(path)["state_dict"], OLD["state_dict"])


DYING = """
import os, signal, sys

import torch

from flowport.training.callback import AtomicCheckpointIO
from tests.training.callback.test_checkpoint import NEW, half


def die(held, file):
    half(held, file)
    os.kill(os.getpid(), signal.SIGKILL)


torch.save = die
AtomicCheckpointIO().save_checkpoint(NEW, sys.argv[1])
"""


def test_a_process_killed_while_it_saves_leaves_the_old_file(tmp_path: Path) -> None:
    path, store = tmp_path / "last.ckpt", AtomicCheckpointIO()
    store.save_checkpoint(OLD, path)
    runs.killed(DYING, str(path))
    assert len(list(tmp_path.iterdir())) == 2, "the child died without a partial file: the test tests nothing"
    assert torch.equal(store.load_checkpoint(path)["state_dict"], OLD["state_dict"])
    store.save_checkpoint(NEW, path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"], "what the killed process left is cleared away"
    assert torch.equal(store.load_checkpoint(path)["state_dict"], NEW["state_dict"])


def test_loading_runs_no_code(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "marker",)

    torch.save({"x": Touch()}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert not (tmp_path / "marker").exists()


def test_nothing_but_tensors_counters_and_the_clock_is_resumed_from() -> None:
    """Lightning deletes the file that ModelCheckpoint calls its last best one."""
    clock, steps = {"seconds": 1.5, "steps": 3}, {"fit_loop": {"current": {"ready": 3, "is_last_batch": True}}}
    checkpoint = {
        "state_dict": {},
        "global_step": 3,
        "loops": steps,
        "callbacks": {"TrainingClock": clock, "ModelCheckpoint{}": {"best_model_path": "../../precious"}},
        "hyper_parameters": {"path": "/etc"},
        "datamodule_hyper_parameters": {},
    }
    seen = admitted(checkpoint)
    assert seen == {"state_dict": {}, "global_step": 3, "loops": steps, "callbacks": {"TrainingClock": clock}}
    assert admitted({"callbacks": {"ModelCheckpoint{}": {"best_model_path": "../../precious"}}}) == {"callbacks": {}}
    with pytest.raises(FlowportError, match="a counter of its training is"):
        admitted({"loops": {"fit_loop": {"path": "../../precious"}}})
