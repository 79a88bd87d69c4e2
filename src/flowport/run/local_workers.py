"""Processes on this machine that run the jobs of a sweep, each of them one job after the other.

A process that is killed costs its own job alone: its neighbours go on, and a new process takes its place, as one does
where the memory of a process has grown. All of them end with the process that started them.
"""

import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

GRACE = 60.0
"""Seconds in which stopped processes may save their checkpoints before they are killed."""

PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from flowport.run.local_worker import serve; serve()"
)
"""What a process runs: it finds the modules that its parent finds."""


class Killed(Exception):
    """A process ended before its job did."""


def send(pipe: IO[bytes], value: Any) -> None:
    """Write a value to a pipe.

    Args:
        pipe: Where to.
        value: What can be pickled.
    """
    pickle.dump(value, pipe)
    pipe.flush()


class _Worker:
    """One process, in which ``flowport.run.local_worker.serve`` runs, and the pipes to it."""

    def __init__(self, setting: bytes, log: Path) -> None:
        with log.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,  # Ctrl-C reaches the parent, which stops them in order
            )
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(setting)
            self.process.stdin.flush()

    def run(self, job: Any) -> tuple[Any, bool]:
        """The value that a job returns, or the exception that it raised; and whether the process has served its time.

        Raises:
            Killed: Where the process ended.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            send(self.process.stdin, job)
            value, worn = pickle.load(self.process.stdout)
            return value, worn
        except (OSError, EOFError, pickle.UnpicklingError):
            code = self.process.wait()
            raise Killed(signal.Signals(-code).name if code < 0 else f"exit status {code}") from None

    def close(self) -> None:
        """Let the process end by itself after its job."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()


class LocalWorkers:
    """Runs jobs in a number of processes.

    Args:
        setting: Pickled values that every process reads first.
        jobs: Number of processes.
        log: File to which they print what does not belong to a job; it is removed where it stayed empty.
    """

    def __init__(self, setting: bytes, jobs: int, log: Path) -> None:
        self.setting, self.jobs, self.log = setting, jobs, log
        self.lock, self.stopped = threading.Lock(), False
        self.workers: list[_Worker] = []

    def run(self, jobs: Sequence[Any]) -> list[Any]:
        """What the jobs returned, or the exceptions that they raised (``Killed`` where a process ended), in order.

        Where this is interrupted by an exception, the processes are stopped, and those that do not end are killed.

        Args:
            jobs: What the processes are sent.
        """
        waiting, results = deque(enumerate(jobs)), [None for _ in jobs]
        count = min(self.jobs, len(jobs))
        slots = [threading.Thread(target=self._serve, args=(waiting, results), daemon=True) for _ in range(count)]
        try:
            for slot in slots:
                slot.start()
            while any(slot.is_alive() for slot in slots):
                time.sleep(0.05)  # a signal interrupts this
        except BaseException:
            self._stop()
            raise
        finally:
            for worker in self.workers:
                worker.close()
        for worker in self.workers:
            worker.process.wait()
        if self.log.is_file() and not self.log.stat().st_size:
            self.log.unlink()
        return results

    def _serve(self, waiting: deque[tuple[int, Any]], results: list[Any]) -> None:
        """Run waiting jobs until none is left."""
        worker: _Worker | None = None
        while True:
            with self.lock:
                if self.stopped or not waiting:
                    break
                number, job = waiting.popleft()
                if worker is None:
                    worker = _Worker(self.setting, self.log)
                    self.workers.append(worker)
            try:
                results[number], worn = worker.run(job)
            except Killed as killed:
                results[number], worker = killed, None
                continue
            if worn:  # its memory has grown
                worker.close()
                worker = None

    def _stop(self) -> None:
        """Stop the processes, which save their checkpoints."""
        with self.lock:
            self.stopped = True
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.terminate()
        last = time.monotonic() + GRACE
        for worker in self.workers:
            try:
                worker.process.wait(max(0.0, last - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
