"""The state of a job of a sweep: status.json in its folder."""

import json
import platform
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError
from flowport.run.run_folder import RunFolder, built_by, read_json, write_json

STATES = ("queued", "running", "finished", "failed", "killed")
"""What ``state`` of status.json may be."""
PLACES = ("jobs", "restart")
"""Keys of a command that say where and how its jobs run, and change no result."""


def digest_of(config: DictConfig) -> str:
    """16 hex digits that identify the config of a job, and the checkpoint of the run that it starts from.

    Args:
        config: As Hydra composed it, without its own node; references are compared as they are written.
    """
    held = OmegaConf.to_container(config, resolve=False)
    assert isinstance(held, dict)
    plain: dict[str, Any] = {str(key): value for key, value in held.items() if key not in PLACES}
    base = plain.get("run")
    if isinstance(base, str) and base != "???" and (checkpoint := RunFolder(Path(base)).checkpoint).is_file():
        found = checkpoint.stat()
        plain["run"] = [str(checkpoint), found.st_size, found.st_mtime_ns]
    text = json.dumps(plain, sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def read_status(folder: RunFolder) -> dict[str, Any]:
    """What status.json holds; empty where there is none.

    Args:
        folder: The job's.

    Raises:
        FlowportError: For a damaged file.
    """
    if not folder.status.exists():
        return {}
    found = read_json(folder.status)
    if found.get("state") not in STATES:
        raise FlowportError(f"{folder.status} is damaged: its state must be one of {', '.join(STATES)}")
    return found


def write_status(folder: RunFolder, state: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write status.json atomically, and return what it holds.

    Args:
        folder: The job's.
        state: One of ``STATES``.
        facts: What else it holds; None leaves a fact out.
    """
    held = {"state": state, **{key: value for key, value in facts.items() if value is not None}}
    write_json(folder.status, held)
    return held


def note_status(folder: RunFolder, state: str, facts: Mapping[str, Any]) -> bool:
    """Write how a job ended, as ``write_status`` does; on a full disk, over what its status.json holds.

    Args:
        folder: The job's.
        state: One of ``STATES``.
        facts: What else it holds; None leaves a fact out.

    Returns:
        Whether the disk took it.
    """
    with suppress(OSError):
        write_status(folder, state, facts)
        return True
    held = {"state": state, **{key: value for key, value in facts.items() if value is not None}}
    text = json.dumps(held, sort_keys=True).encode()
    with suppress(OSError):
        if len(text) <= folder.status.stat().st_blocks * 512:  # which it has already
            with folder.status.open("r+b") as file:
                file.write(text)
                file.truncate()
            return True
    return False


class Stopwatch:
    """Wall time and peak memory of a job, from when it is made.

    The peak is that of this job alone where the kernel can forget the one of earlier jobs of the same process.
    """

    def __init__(self) -> None:
        self.began, self.at = time.monotonic(), datetime.now(UTC)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()

    def started(self) -> dict[str, Any]:
        """Facts of the beginning: versions with the git state, host and time."""
        return {"built_by": built_by(), "host": platform.node(), "began": self.at.isoformat(timespec="seconds")}

    def facts(self) -> dict[str, Any]:
        """Seconds, time of the end and peak memory in MiB so far."""
        found = {
            "seconds": round(time.monotonic() - self.began, 2),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "peak_memory_mib": _peak(),
        }
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            found["peak_cuda_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        return found


def _peak() -> float:
    """Largest resident memory of this process in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10, 1)
    except (OSError, StopIteration):
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)
