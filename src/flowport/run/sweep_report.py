"""What a sweep says: before it starts, while its jobs end, and at the end."""

import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flowport.errors import Stopped, printable
from flowport.run.planned_job import ENDED, LOOK, PlannedJob
from flowport.run.sweep_progress import ProgressLines

ANEW = "restart=true starts every job anew, hydra.sweep.dir=<folder> another sweep"
"""How not to go on."""


def say(sentence: str) -> None:
    """Write a sentence to stderr.

    Args:
        sentence: The sentence.
    """
    sys.stderr.write(f"flowport: {printable(sentence)}\n")
    sys.stderr.flush()


def plan(folder: Path, steps: list[str], config: DictConfig) -> str:
    """What is said before a sweep starts: its jobs, and how many of them are left.

    Args:
        folder: Of the sweep.
        steps: ``"skip"``, ``"resume"`` or ``"anew"`` for every job.
        config: Of the sweep, with Hydra's own node.
    """
    count = Counter(steps)
    if count["skip"] == len(steps):
        return f"the sweep in {folder} is finished, all {_jobs(len(steps))}: nothing is started; {ANEW}"
    if not count["skip"] and not count["resume"]:
        return f"{_jobs(len(steps))} in {folder}, {at_once(config)}; the same command again goes on there"
    return (
        f"going on in {folder}: of {_jobs(len(steps))} {count['skip']} finished, {count['resume']} resumed, "
        f"{count['anew']} from the start, {at_once(config)}; {ANEW}"
    )


def at_once(config: DictConfig) -> str:
    """How many jobs run at a time, in words.

    Args:
        config: Of the sweep, with Hydra's own node.
    """
    if str(config.hydra.launcher._target_).endswith(".BasicLauncher"):
        return "one after the other"
    return f"{config.get('jobs', 1)} at a time"


def _jobs(number: int) -> str:
    return f"{number} job{'s' if number != 1 else ''}"


@contextmanager
def watched(jobs: list[PlannedJob], at_once: int, total: int | None = None) -> Iterator[None]:
    """A context in which every job that ends is said in a line, with the time that is left.

    Args:
        jobs: Of the sweep; more of them may come.
        at_once: How many of them run at a time.
        total: How many there will be; None for those that there are.
    """
    over = threading.Event()
    told = {job.number for job in jobs if job.state in ENDED}  # before any of them can end
    watch = threading.Thread(target=_watch, args=(jobs, at_once, over, total or len(jobs), told), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _watch(jobs: list[PlannedJob], at_once: int, over: threading.Event, total: int, told: set[int]) -> None:
    skipped, spent = len(told), list[float]()
    lines = ProgressLines(total - skipped, at_once)
    while True:
        last = over.is_set()
        for job in list(jobs):
            job.note_death()
            state = job.state
            if state not in ENDED:
                told.discard(job.number)  # a cluster has started it again
            elif job.number not in told:
                told.add(job.number)
                if state == "finished":
                    spent.append(float(job.held().get("seconds", 0.0)))
                say(_line(job, f"{len(told)}/{total}", _minutes(spent, total - len(told), at_once)))
        if last:
            return
        waiting = [(job, job.state) for job in list(jobs) if job.number not in told]
        begun = sum(state == "queued" and job.folder.begun for job, state in waiting)
        for line in lines.of([job for job, state in waiting if state == "running"], len(told) - skipped, begun):
            say(line)
        over.wait(LOOK)


def _minutes(spent: Sequence[float], left: int, at_once: int) -> float | None:
    """The time that the jobs take which are left, by those that finished; None where no job tells, or will run."""
    if not spent or not left or Stopped.received is not None:
        return None
    return sum(spent) / len(spent) * left / max(at_once, 1) / 60


def _line(job: PlannedJob, count: str, minutes: float | None) -> str:
    """The line of a job that has ended."""
    held = job.held()
    after = f" after {held['seconds']:.0f} s" if "seconds" in held else ""
    left = "" if minutes is None else f", about {minutes:.1f} min left"
    why = "" if held.get("state") == "finished" else f": {held.get('error', '')}"
    return f"[{count}] job {job.folder.path.name} ({job}) {held.get('state')}{after}{why}{left}"


def stopped(stop: BaseException, folder: Path, jobs: list[PlannedJob]) -> Stopped:
    """The signal that ended a sweep, with the command that goes on.

    Args:
        stop: What was raised.
        folder: Of the sweep.
        jobs: Of the sweep.
    """
    for job in jobs:
        job.note_death()
    done = sum(job.state == "finished" for job in jobs)
    number = stop.status - 128 if isinstance(stop, Stopped) else int(signal.SIGINT)
    start = sys.argv[0] if sys.argv[0].startswith("flowport") else f"python {sys.argv[0]}"
    there = [job for job in jobs if job.state in ("queued", "running") and "slurm" in job.held()]
    on = f"; {_jobs(len(there))} stay in Slurm's queue, and that command waits for them" if there else ""
    return Stopped(
        number,
        f"with {done} of {_jobs(len(jobs))} finished in {folder}: go on by the same command, "
        f"{start} {shlex.join(sys.argv[1:])}{on}",
    )


AGAIN = "the same command again runs what did not finish"
"""What is left to do where jobs did not finish."""


def report(folder: Path, jobs: list[PlannedJob], again: str = AGAIN) -> bool:
    """Tell how a sweep ended, with a table of the jobs that did not finish.

    Args:
        folder: Of the sweep.
        jobs: Of the sweep.
        again: What is left to do where jobs did not finish.

    Returns:
        Whether all of them finished.
    """
    left = [job for job in jobs if job.state != "finished"]
    if not left:
        return True
    sheet = Table(title=f"{len(left)} of {_jobs(len(jobs))} did not finish", title_justify="left")
    for column in ("job", "state", "overrides", "why"):
        sheet.add_column(column, overflow="fold")
    for job in left:
        state = job.state if job.state in ENDED else "killed"
        sheet.add_row(
            job.folder.path.name, state, escape(str(job)), escape(printable(str(job.held().get("error", ""))))
        )
    Console(stderr=True, width=110).print(sheet)
    say(f"what a job printed is in {folder}/<job>/output.txt; {again}")
    return False
