"""How a sweep ends: with what became of its jobs, and where one of them finished, with its tables and its study."""

from collections.abc import Sequence
from pathlib import Path

from flowport.errors import FlowportError
from flowport.run.cli import sentence_of
from flowport.run.planned_job import PlannedJob
from flowport.run.sweep_report import AGAIN, report, say

OF_ALL = ("runs.csv", "table.md", "study.html")
"""Files that a user looks at first, where they were written; the last one only where runs have items."""


def ended(folder: Path, jobs: list[PlannedJob], again: str = AGAIN) -> bool:
    """Tell what became of the jobs of a sweep, and write what ``flowport tabulate`` writes of those that finished.

    Args:
        folder: Of the sweep.
        jobs: Of the sweep.
        again: What is left to do where jobs did not finish.

    Returns:
        Whether all of them finished, and the disk took the tables.
    """
    good = report(folder, jobs, again)
    if not any(_has_numbers(job, folder) for job in jobs):
        return good
    return _tables(folder) and good


def _has_numbers(job: PlannedJob, folder: Path) -> bool:
    """Whether a job of a sweep has numbers that ``flowport tabulate`` finds and shows unasked."""
    if job.state != "finished" or job.folder.path.parent != folder:
        return False
    try:
        return any(name.startswith("test/") for name in job.folder.read_metrics())
    except FlowportError:
        return False


def _tables(folder: Path) -> bool:
    """Write the tables of a sweep unless they are of its present numbers, and say where they are."""
    from flowport.run.tabulating import TableOptions, write_tables

    try:
        if not _current(folder):
            print(write_tables(folder, TableOptions()), flush=True)
    except FlowportError as error:
        say(f"no table is written: {error}")
        return True
    except OSError as error:
        if (sentence := sentence_of(error)) is None:
            raise
        say(f"no table is written: {sentence}")
        return False
    held = [name for name in OF_ALL if (folder / name).is_file()]
    say(f"{', '.join(held)} are in {folder}; flowport tabulate {folder} --help tells of curves and pivots")
    return True


def _current(folder: Path) -> bool:
    """Whether runs.csv, which is written last, is as new as every number and every state of the sweep."""
    last = folder / "runs.csv"
    files: Sequence[Path] = [*folder.glob("*/metrics.json"), *folder.glob("*/status.json")]
    return last.is_file() and all(file.stat().st_mtime_ns <= last.stat().st_mtime_ns for file in files)
