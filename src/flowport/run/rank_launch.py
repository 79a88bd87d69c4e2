"""Several processes that train one run: started, watched and ended together, with one sentence where one of them fails.

Lightning starts further processes by running the command line again. A command of flowport composes a config, names a
folder by the time of day and locks it, all of which only one process can do. Therefore the command itself trains
nothing: it starts all processes, each of which is given the composed config and the folder
(``flowport.run.rank_entry``). Started by torchrun or srun, the first process does the same for the others.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError, Stopped
from flowport.run.rank_place import Place, environment_of, here, store
from flowport.run.run_folder import RunFolder, read_json, write_json
from flowport.run.trainer_options import processes_of

logger = logging.getLogger(__name__)
GRACE = 5.0
"""Seconds that processes have to end by themselves after one has failed."""
POLL = 0.05
JOB, ENDED, REFUSED = "job", "ended", "refused"
"""Keys of the store: the run, whether the first process has failed, and whether another one has."""


def handed_over(config: DictConfig, folder: RunFolder, resume: bool) -> dict[str, Any] | None:
    """Train a run in several processes where its trainer asks for them.

    Args:
        config: The composed config.
        folder: The run's.
        resume: Go on from the folder's last checkpoint.

    Returns:
        All numbers; None where this process trains itself, alone or as one of several.

    Raises:
        FlowportError: Where a process is refused or fails, and for several nodes without a starter.
        Stopped: Where a signal ended them.
    """
    place = here()
    if place is not None:
        if place.rank == 0 and place.starter != "flowport" and processes_of(config.trainer) == place.size:
            Lead.announce(place, job_of(config, folder, resume))
        return None
    if processes_of(config.trainer) == 1:
        return None
    if config.trainer.get("num_nodes", 1) > 1:
        nodes, devices = config.trainer.num_nodes, config.trainer.get("devices", 1)
        raise FlowportError(
            f"trainer.num_nodes={nodes} needs a command on every node: start it by torchrun --nnodes={nodes} "
            f"--nproc-per-node={devices} -m flowport.run …, or by srun --ntasks-per-node={devices}"
        )
    with tempfile.TemporaryDirectory(prefix="flowport-") as place_of_files:
        Processes(config.trainer.devices, Path(place_of_files)).run(job_of(config, folder, resume), folder)
    return folder.read_metrics()


def job_of(config: DictConfig, folder: RunFolder, resume: bool) -> dict[str, Any]:
    """What a process is told of its run.

    Args:
        config: The composed config.
        folder: The run's.
        resume: Go on from the folder's last checkpoint.
    """
    root = logging.getLogger()
    files = [handler.baseFilename for handler in root.handlers if isinstance(handler, logging.FileHandler)]
    return {
        "config": OmegaConf.to_yaml(config, resolve=True),
        "folder": str(folder),
        "trust": folder.trust,
        "resume": resume,
        "log": {"files": files, "level": root.level, "heard": bool(root.handlers)},
    }


class Processes:
    """The processes of one run on this machine.

    Args:
        size: Their number.
        files: Folder for what they are told and what they say at their end.
    """

    def __init__(self, size: int, files: Path) -> None:
        self.size, self.files = size, files
        self.running: list[subprocess.Popen[bytes]] = []

    def run(self, job: dict[str, Any], folder: RunFolder) -> None:
        """Start them and wait for their end.

        Args:
            job: What they are told.
            folder: The run's.

        Raises:
            FlowportError: Where one of them is refused or fails; all others are ended.
            Stopped: Where a signal ended them.
        """
        logger.info("%d processes train together: the first one writes and tells", self.size)
        write_json(self.files / "job.json", job)
        try:
            self._start()
            self._wait()
        except (Stopped, KeyboardInterrupt) as stop:
            self._stop(stop.status - 128 if isinstance(stop, Stopped) else int(signal.SIGINT))
        finally:
            for process in self.running:
                if process.poll() is None:
                    process.kill()
                process.wait()
        self._judge(folder)

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(self.size):
            said = (self.files / f"{rank}.out").open("wb")
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flowport.run.rank_entry", str(self.files / "job.json")],
                env=environment_of(rank, self.size, port),
                stdin=subprocess.PIPE,  # it closes when this process dies, by which they learn of it
                stdout=None if rank == 0 else said,
                stderr=None if rank == 0 else subprocess.STDOUT,
                start_new_session=True,  # a signal of the terminal comes through this process
            )
            said.close()
            self.running.append(process)

    def _wait(self) -> None:
        """Wait until all have ended, or for ``GRACE`` once one has failed."""
        until = None
        while any(process.poll() is None for process in self.running):
            if until is None and any(process.poll() for process in self.running):
                until = time.monotonic() + GRACE
            if until is not None and time.monotonic() > until:
                return
            time.sleep(POLL)

    def _stop(self, number: int) -> None:
        """Pass a signal on; all of them save the same step and end. A second signal ends them at once."""
        for process in self.running:
            if process.poll() is None:
                process.send_signal(number)
        with contextlib.suppress(Stopped, KeyboardInterrupt):
            self._wait()
        state = self._last_words(0).get("state", "")
        raise Stopped(number, state) from None

    def _last_words(self, rank: int) -> dict[str, Any]:
        path = self.files / f"{rank}.json"
        return read_json(path) if path.is_file() else {}

    def _judge(self, folder: RunFolder) -> None:
        """Raise what the processes ended with: a refusal, a signal, or a fault, of which the first one counts."""
        words = [self._last_words(rank) for rank in range(self.size)]
        for each in words:
            if "refused" in each:
                raise FlowportError(each["refused"])
        for each in words:
            if "stopped" in each:
                raise Stopped(each["stopped"], each["state"])
        dead = [rank for rank, process in enumerate(self.running) if process.returncode and not words[rank]]
        after = f"go on by flowport train run={folder}" if folder.begun else "nothing was saved yet"
        if dead:
            code = self.running[dead[0]].returncode
            how = signal.Signals(-code).name if code < 0 else f"status {code}"
            raise FlowportError(f"process {dead[0]} of {self.size} was ended by {how}, and the others with it: {after}")
        faults = sorted((each["time"], rank) for rank, each in enumerate(words) if "fault" in each)
        if faults:
            rank = faults[0][1]
            sys.stderr.write(words[rank]["fault"])
            raise FlowportError(f"process {rank} of {self.size} failed as shown above, and the others with it: {after}")


class Lead:
    """What the first of the processes that torchrun or srun started does for the others: a context of its command."""

    store: Any = None
    """The store, kept as long as the process, since srun's first process hosts it."""

    @classmethod
    def announce(cls, place: Place, job: dict[str, Any] | None) -> None:
        """Tell the others the run, once.

        Args:
            place: Of this process.
            job: What they are told; None for nothing to do.
        """
        if cls.store is None:
            cls.store = store(place)
            cls.store.set(JOB, json.dumps(job))

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        place = here()
        if place is None or place.starter == "flowport":
            return
        failed = error is not None and not (isinstance(error, SystemExit) and not error.code)
        self.announce(place, None)
        if failed:
            type(self).store.set(ENDED, "failed")
        if isinstance(error, RuntimeError) and type(self).store.check([REFUSED]):  # which has said why
            os._exit(2)
