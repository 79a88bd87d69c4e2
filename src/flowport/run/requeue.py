"""A job of a cluster's queue that is told to end: it saves, leaves its folder in order, and is queued again."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flowport.errors import FlowportError, Stopped
from flowport.run.cli import stop_by
from flowport.run.job_status import read_status, write_status
from flowport.run.run_folder import RunFolder


@contextmanager
def requeued(folder: RunFolder) -> Iterator[None]:
    """A context in which a job of submitit's ends in order where the cluster announces its time limit by SIGUSR2.

    submitit's handler asks for the job to be queued again at once, and ends the process wherever it is. Here it is
    called when the job has saved its last completed step, noted its state and given back its folder. SIGTERM, which
    submitit's jobs ignore, stops the job in the same way; whoever sent it decides whether it is queued again.

    Args:
        folder: The job's.

    Raises:
        SystemExit: Where a signal ended it.
    """
    again = signal.getsignal(signal.SIGUSR2)
    if not _of_submitit(again) or threading.current_thread() is not threading.main_thread():
        yield
        return
    assert callable(again)
    kept = {number: signal.signal(number, stop_by) for number in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        yield
    except Stopped as stop:
        for number, handler in kept.items():
            signal.signal(number, handler)
        if stop.status == 128 + signal.SIGUSR2:
            _queue_again(folder, again)
        raise SystemExit(stop.status) from None
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def number_in_slurm() -> str | None:
    """The number by which Slurm knows the job that this process runs, as squeue writes it; None outside of one."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return None
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else number


def _of_submitit(handler: Any) -> bool:
    return callable(handler) and str(getattr(handler, "__module__", "")).startswith("submitit.")


def _queue_again(folder: RunFolder, again: Callable[[int, Any], Any]) -> None:
    """Note that the job waits again and let submitit queue it, which ends this process."""
    held: dict[str, Any] = {}
    with suppress(FlowportError):
        held = read_status(folder)
    if held.pop("state", None) == "killed":  # else another process has the folder
        with suppress(OSError):
            write_status(folder, "queued", held)
    try:
        again(int(signal.SIGUSR2), None)
    except Exception as refusal:  # it has met its time limit too often
        if held:
            with suppress(OSError):
                write_status(folder, "killed", {**held, "error": f"{held.get('error', '')}; {refusal}"})
        raise
