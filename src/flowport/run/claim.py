"""The claim of a folder: one process at a time works in it, also among hosts and containers that share the folder."""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock

BEAT = 5.0
"""Seconds between two heartbeats of a claim."""
SILENT = 60.0
"""Seconds without a heartbeat after which the claim of another host is taken for that of a dead process."""


def _born(pid: int) -> str:
    """When a process began, in ticks of the kernel; empty for one that ended, or where the system does not say."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in "ZX" else words[19]  # a zombie has ended


def _space() -> str:
    """This host and its space of process ids, which containers of one host do not share."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _runs(pid: int, born: str) -> bool:
    """Whether the process of a claim of this host still runs; its number may have been given to another one."""
    if Path("/proc/self/stat").exists():
        return bool(born) and _born(pid) == born
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Claim:
    """The file ``.claim`` in a folder, which names the process that works there and which that process touches.

    File locks alone do not do it, since not every shared file system has them among its hosts: a claim of the same host
    counts as long as its process runs, one of another host as long as it was touched within the last ``SILENT``
    seconds by the clock of the file system.

    Args:
        folder: The folder, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.token = folder / ".claim", uuid4().hex
        self.ended = threading.Event()

    def take(self) -> dict[str, Any] | None:
        """Claim the folder; None where that succeeded, else ``host`` and ``pid`` of the process that has it."""
        while not self._create():
            holder = self._read(self.path)
            if holder is None:
                continue  # released meanwhile
            if self._lives(holder):
                return holder
            self._discard(holder)
        threading.Thread(target=self._beat, daemon=True).start()
        return None

    def release(self) -> None:
        """Give the folder back, where the claim is still this one."""
        self.ended.set()
        if (self._read(self.path) or {}).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def holder(self) -> dict[str, Any] | None:
        """The living process that has claimed the folder; None where there is none."""
        found = self._read(self.path)
        return found if found is not None and self._lives(found) else None

    def _create(self) -> bool:
        held = {"host": platform.node(), "pid": os.getpid(), "born": _born(os.getpid()), "space": _space()}
        text = json.dumps({**held, "token": self.token}).encode()
        try:
            file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(file, text)
        except OSError:  # a full disk
            self.path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        return True

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # being written, or cut off by a full disk
            return {"host": "another host", "pid": 0, "space": "", "token": ""}
        return found if isinstance(found, dict) else {}

    def _lives(self, holder: dict[str, Any]) -> bool:
        if holder.get("space") == _space():
            return _runs(int(holder.get("pid", 0)), str(holder.get("born", "")))
        return self._silence() < SILENT

    def _silence(self) -> float:
        """Seconds since the claim was touched, by the clock of the file system that holds it."""
        clock = self.path.with_name(f".clock.{os.getpid()}")
        try:
            clock.touch()
            return clock.stat().st_mtime - self.path.stat().st_mtime
        except OSError:
            return 0.0
        finally:
            clock.unlink(missing_ok=True)

    def _discard(self, holder: dict[str, Any]) -> None:
        """Remove the claim of a dead process, unless another process has done so and claimed the folder meanwhile."""
        aside = self.path.with_name(f".claim.{self.token}")
        with FileLock(self.path.with_name(".claim.lock")):
            if (self._read(self.path) or {}).get("token") != holder.get("token"):
                return
            with suppress(FileNotFoundError):
                os.rename(self.path, aside)
                if (self._read(aside) or {}).get("token") != holder.get("token"):  # locks do not reach its host
                    with suppress(FileExistsError):
                        os.link(aside, self.path)
                aside.unlink()

    def _beat(self) -> None:
        while not self.ended.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)


@contextmanager
def claimed(folder: Path, refuse: Callable[[dict[str, Any]], None]) -> Iterator[Claim]:
    """A context in which no other process works in a folder.

    Args:
        folder: The folder, which is made where it does not exist.
        refuse: Called with ``host`` and ``pid`` while another process works there; where it returns, the folder is
            asked for again a second later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = Claim(folder)
    while (holder := claim.take()) is not None:
        refuse(holder)
        time.sleep(1.0)
    try:
        yield claim
    finally:
        claim.release()
