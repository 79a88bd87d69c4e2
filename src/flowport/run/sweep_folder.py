"""A sweep whose folder is its state: which of its jobs are run, and by which launcher until each has ended."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowport.cache import write_atomically
from flowport.errors import FlowportError, Stopped
from flowport.run.claim import Claim, claimed
from flowport.run.cli import sentence_of
from flowport.run.local_workers import Killed
from flowport.run.planned_job import ENDED, PlannedJob
from flowport.run.sweep_end import ended
from flowport.run.sweep_report import plan, say, stopped, watched

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[Any]]
"""(the words of each job, number of the first one) -> Hydra's record of each: ``launch`` of a launcher."""


def run_sweep(folder: Path, jobs: list[PlannedJob], launch: Launch, config: DictConfig, batch: int) -> None:
    """Run what is left of a sweep, and tell what became of it.

    Args:
        folder: Of the sweep.
        jobs: All of its jobs.
        launch: Of Hydra's launcher.
        config: Of the sweep, with Hydra's own node.
        batch: Largest number of jobs that the launcher is given at once.

    Raises:
        FlowportError: Where another sweep lives in the folder, or a job's folder holds something else.
        Stopped: Where a signal ended it.
        SystemExit: With status 1 where a job did not finish, or the disk does not take the tables.
    """
    shared = [name for name, count in Counter(str(job.folder) for job in jobs).items() if count > 1]
    if shared:
        raise FlowportError(f"several jobs of this sweep share {shared[0]}: hydra.sweep.subdir must tell them apart")
    common = frozenset(set[str].intersection(*(set(job.words) for job in jobs)))
    jobs = [job.showing_without(common) for job in jobs]
    with claimed(folder, partial(refuse_second, folder)):
        if config.get("restart"):
            remove([job.folder.path for job in jobs])
        steps = [job.step for job in jobs]
        waiting = [job for job, step in zip(jobs, steps, strict=True) if step != "skip"]
        say(plan(folder, steps, config))
        if waiting:
            write_atomically(folder / "multirun.yaml", partial(OmegaConf.save, config))
            for job in waiting:
                job.queue()
            try:
                with watched(jobs, min(int(config.get("jobs", 1)), len(waiting))):
                    _run(waiting, launch, batch)
            except (Stopped, KeyboardInterrupt) as stop:
                raise stopped(stop, folder, jobs) from None
    if not ended(folder, jobs):
        raise SystemExit(1)


def refuse_second(folder: Path, holder: dict[str, Any]) -> None:
    """Refuse a second sweep in a folder.

    Args:
        folder: Of the sweep.
        holder: ``host`` and ``pid`` of the process that works there.

    Raises:
        FlowportError: Always.
    """
    raise FlowportError(
        f"{folder} is being written by another sweep, process {holder.get('pid')} of {holder.get('host')}: wait for "
        "it, or give hydra.sweep.dir=<another folder>"
    )


def remove(folders: Sequence[Path]) -> None:
    """Remove the folders that jobs of earlier sweeps left, unless one of them still runs.

    Args:
        folders: Of the jobs.
    """
    for path in folders:
        if holder := Claim(path).holder():
            refuse_second(path, holder)
    for path in folders:
        if (path / "status.json").is_file():
            shutil.rmtree(path)


def _run(jobs: list[PlannedJob], launch: Launch, batch: int) -> None:
    """Run jobs until each has ended; those that a broken launcher left waiting are given to it again."""
    waiting = jobs
    while waiting:
        failures = [launched(waiting[first : first + batch], launch) for first in range(0, len(waiting), batch)]
        for job in waiting:
            job.wait()
        left = [job for job in waiting if job.state not in ENDED]
        if len(left) == len(waiting):  # of no use to try again
            for failure in failures:
                if failure is not None:
                    raise failure
            return
        waiting = left


def launched(jobs: list[PlannedJob], launch: Launch) -> Exception | None:
    """Run some jobs; the exception by which the launcher ended, as joblib's does where a process was killed.

    Args:
        jobs: The jobs.
        launch: Of Hydra's launcher.
    """
    try:
        returns = launch([[*job.words, *job.place] for job in jobs], jobs[0].number)
    except Exception as error:
        return error
    for job, found in zip(jobs, returns, strict=False):
        settle(job, getattr(found, "_return_value", None))
    return None


def settle(job: PlannedJob, value: Any) -> None:
    """Note a job that ended before it could say so itself.

    Args:
        job: The job.
        value: What it returned, or the exception that it raised.
    """
    if not isinstance(value, BaseException) or job.holder():
        return
    if isinstance(value, Killed) and job.state not in ("finished", "failed"):
        job.note("killed", f"its process was ended by {value}")
    elif job.state not in ENDED:
        job.note("failed", sentence_of(value) or " ".join(f"{type(value).__name__}: {value}".split()))
