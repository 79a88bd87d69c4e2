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
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
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
        self.failure: BaseException | None = None

    def run(self, jobs: Sequence[Any]) -> list[Any]:
        """What the jobs returned, or the exceptions that they raised (``Killed`` where a process ended), in order.

        Where this is interrupted by an exception, the processes are stopped, and those that do not end are killed.

        Args:
            jobs: What the processes are sent.
        """
        results = [None for _ in jobs]
        waiting, places = deque(jobs), count()

        def ended(place: int, value: Any) -> None:
            results[place] = value

        self.jobs = min(self.jobs, len(jobs))
        self.stream(lambda: (next(places), waiting.popleft()) if waiting else None, ended)
        return results

    def stream(self, take: Callable[[], tuple[int, Any] | None], ended: Callable[[int, Any], None]) -> None:
        """Run jobs that are known when a process becomes free, and not before.

        Both arguments are called by one thread at a time. What they raise ends all, as an interruption does.

        Args:
            take: The next job and its number; None where there is none, after which it is not asked again by this
                process.
            ended: Called with the number of a job and what ``run`` would return for it.
        """
        slots = [threading.Thread(target=self._guarded, args=(take, ended), daemon=True) for _ in range(self.jobs)]
        try:
            for slot in slots:
                slot.start()
            while any(slot.is_alive() for slot in slots) and self.failure is None:
                time.sleep(0.05)  # a signal interrupts this
            if self.failure is not None:
                raise self.failure
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

    def _guarded(self, *both: Callable[..., Any]) -> None:
        try:
            self._serve(*both)
        except BaseException as failure:
            self.failure = failure

    def _serve(self, take: Callable[[], tuple[int, Any] | None], ended: Callable[[int, Any], None]) -> None:
        """Run jobs until none is left."""
        worker: _Worker | None = None
        while True:
            with self.lock:
                if self.stopped or (found := take()) is None:
                    break
                number, job = found
                if worker is None:
                    worker = _Worker(self.setting, self.log)
                    self.workers.append(worker)
            try:
                value, worn = worker.run(job)
            except Killed as killed:
                value, worn, worker = killed, False, None
            if worn and worker is not None:  # its memory has grown
                worker.close()
                worker = None
            with self.lock:
                if not self.stopped:
                    ended(number, value)

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
