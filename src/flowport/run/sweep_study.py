"""The study of a sweep's folder: reads the items of its runs, names what it leaves out, and writes the page."""

import sys
from pathlib import Path

from flowport.errors import FlowportError, printable
from flowport.evaluation.items import read_items
from flowport.evaluation.study import StudyRun, compared
from flowport.evaluation.study_page import write
from flowport.evaluation.sweep_table import Job
from flowport.run.run_folder import RunFolder, finished_runs

EXAMPLES = ("source", "translation", "partner")


def write_study(folder: Path) -> Path | None:
    """Write study.html and study.md into the folder of a sweep.

    Runs that cannot be read are named on stderr and on the page.

    Args:
        folder: The folder that a multirun wrote.

    Returns:
        The page; None where no run has items, as in sweeps of other commands, or none of them can be compared.
    """
    jobs = finished_runs(folder)
    if not any(job.items.exists() or job.items.is_symlink() for job in jobs):
        return None
    runs, left = list[StudyRun](), _refusals(folder)
    for job in jobs:
        try:
            runs.append(_read(job))
        except FlowportError as error:
            left.append(str(error))
            sys.stderr.write(f"flowport: left out of the study: {error}\n")
    if not runs:
        return None
    try:
        return write(compared(runs, left), folder)
    except FlowportError as error:
        sys.stderr.write(f"flowport: no study is written: {error}\n")
        return None


def _read(job: RunFolder) -> StudyRun:
    job.check_links()
    table = read_items(job.read_items(), str(job.items))
    held = Job.of(job.overrides(), job.read_metrics(), job.translation)
    pictures = {row: job.example(row) for row in EXAMPLES if job.example(row).is_file()}
    return StudyRun(f"job {job.path.name}", held.settings, table, held.numbers, pictures)


def _refusals(folder: Path) -> list[str]:
    """What refused jobs said."""
    found = []
    for path in sorted(folder.iterdir()):
        job = RunFolder(path)
        if path.is_dir() and not path.is_symlink() and job.refusal.is_file() and not job.finished:
            try:
                words = " ".join(f"{key}={value}" for key, value in job.overrides().items() if key != "sweep")
                found.append(f"job {path.name} ({printable(words)}), which was refused: {job.read_refusal()}")
            except FlowportError as error:
                found.append(str(error))
    return found
