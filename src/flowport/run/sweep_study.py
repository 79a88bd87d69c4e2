"""The study of a sweep's folder: reads the items of its runs, names what it leaves out, and writes the page."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from flowport.errors import FlowportError
from flowport.evaluation.items import read_items
from flowport.evaluation.showcase import read_showcase
from flowport.evaluation.study import StudyRun, compared
from flowport.evaluation.study_block import Block
from flowport.evaluation.study_page import write
from flowport.evaluation.sweep_table import Job
from flowport.run.choices import choices
from flowport.run.run_folder import RunFolder, finished_runs, read_json

EXAMPLES = ("source", "translation", "partner", "target", "ways")


def write_study(folder: Path, extra: Sequence[Block] = (), lost: Sequence[str] = ()) -> Path | None:
    """Write study.html and study.md into the folder of a sweep.

    Runs that cannot be read are named on stderr and on the page.

    Args:
        folder: The folder that a multirun wrote.
        extra: Parts of the page that stand behind the answer.
        lost: Jobs that did not finish, and why.

    Returns:
        The page; None where no run has items, as in sweeps of other commands, or none of them can be compared.
    """
    jobs = finished_runs(folder)
    if not any(job.items.exists() or job.items.is_symlink() for job in jobs):
        return None
    runs, left = list[StudyRun](), list(lost)
    for job in jobs:
        try:
            runs.append(_read(job))
        except FlowportError as error:
            left.append(str(error))
            sys.stderr.write(f"flowport: left out of the study: {error}\n")
    if not runs:
        return None
    try:
        return write(compared(runs, left), folder, extra)
    except FlowportError as error:
        sys.stderr.write(f"flowport: no study is written: {error}\n")
        return None


def _read(job: RunFolder) -> StudyRun:
    job.check_links()
    table = read_items(job.read_items(), str(job.items))
    held = Job.of(job.overrides(), job.read_metrics(), job.translation)
    shows = read_json(job.show) if job.show.exists() else {}
    show = read_showcase(shows, job.show, job.sounds())
    pictures = {row: job.example(row) for row in EXAMPLES if job.example(row).is_file()}
    numbers = {**held.numbers, **_memory(job)}
    return StudyRun(f"job {job.path.name}", held.settings, table, numbers, pictures, show, _choices(job))


def _memory(job: RunFolder) -> dict[str, float]:
    """The largest memory of the process of a job, as its status says; empty where it says nothing."""
    held = read_json(job.status).get("peak_memory_mib") if job.status.is_file() else None
    known = isinstance(held, int | float) and not isinstance(held, bool) and math.isfinite(held)
    return {"peak_memory_mib": float(held)} if known and held is not None else {}


def _choices(job: RunFolder) -> dict[str, str]:
    """What the config of a job chooses; empty where it has none that may be read."""
    try:
        return {name: str(value) for name, value in choices(job.read_config()).items()}
    except (FlowportError, KeyError, TypeError, AttributeError):  # as of evaluate, which trains nothing
        return {}
