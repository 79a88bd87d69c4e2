"""A checkpoint on disk is always a whole one."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from flowport.training.callback import AtomicCheckpointIO

OLD, NEW = {"w": torch.arange(5.0)}, {"w": torch.arange(2e5)}


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
    assert torch.equal(store.load_checkpoint(path)["w"], OLD["w"])


def test_a_process_killed_while_it_saves_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, store = tmp_path / "last.ckpt", AtomicCheckpointIO()
    store.save_checkpoint(OLD, path)

    def die(held: Any, file: Any) -> None:
        half(held, file)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(torch, "save", die)
        store.save_checkpoint(NEW, path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2, "the child died without a partial file: the test tests nothing"
    assert torch.equal(store.load_checkpoint(path)["w"], OLD["w"])
    store.save_checkpoint(NEW, path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"], "what the killed process left is cleared away"
    assert torch.equal(store.load_checkpoint(path)["w"], NEW["w"])


def test_loading_runs_no_code(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "marker",)

    torch.save({"x": Touch()}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert not (tmp_path / "marker").exists()
