"""The jobs of a sweep's folder as tables: what became of each job, files, pictures and the study."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowport.cache import write_atomically
from flowport.errors import FlowportError, printable
from flowport.evaluation import pareto, sweep_files, sweep_pictures
from flowport.evaluation.atlas import told_by_name, translations
from flowport.evaluation.atlas_page import atlas_blocks
from flowport.evaluation.study_block import Block
from flowport.evaluation.study_page import write_blocks
from flowport.evaluation.sweep_differences import differences, marked
from flowport.evaluation.sweep_table import (
    FINISHED,
    MARKED,
    Job,
    SweepTable,
    direction,
    metric_name,
    tabulated,
)
from flowport.run.run_folder import RunFolder, finished_runs, load_yaml, read_json
from flowport.run.sweep_study import write_study
from flowport.run.words import objectives

STATES = ("queued", "running", "failed", "killed", "refused")
"""What a job's status.json may say of a job that has no numbers."""
EXPERIMENT = "experiment"
"""The override that names a config of an experiment, which chooses the data as well."""
LONGEST = 400
"""Number of characters of an error that are shown."""
SHOWN = 4
"""Largest number of metrics whose curves are in a study."""


@dataclass(frozen=True)
class TableOptions:
    """What ``flowport tabulate`` shows.

    Args:
        metrics: Names of the columns; none: all test metrics that are no references.
        against: Names of the numbers that the metrics are drawn over.
        pivot: Two overrides, or none.
        baseline: What differences are from: ``"best"`` or ``"first"``.
    """

    metrics: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    pivot: tuple[str, ...] = ()
    baseline: str = "best"


def read_jobs(folder: Path) -> list[Job]:
    """All jobs of a sweep, in the order of their numbers: finished ones with their numbers, others with the reason.

    Args:
        folder: The folder that a multirun wrote.
    """
    places = [RunFolder(path) for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    jobs = [place for place in places if place.finished or place.refusal.exists() or _began(place)]
    return [_read(job) for job in sorted(jobs, key=lambda job: (len(job.path.name), job.path.name))]


def _began(job: RunFolder) -> bool:
    return (job.path / ".hydra" / "overrides.yaml").is_file() or (job.path / "status.json").is_file()


def _read(job: RunFolder) -> Job:
    name, settings = printable(job.path.name), dict[str, str]()
    try:
        settings = job.overrides()
        if job.finished:
            return replace(Job.of(settings, job.read_metrics(), job.translation, name), target=_target(job, settings))
        state, error = _state(job)
    except FlowportError as reason:
        state, error = "unreadable", str(reason)
    return Job(settings, {}, job.translation, name, state, " ".join(printable(error).split())[:LONGEST])


def _target(job: RunFolder, settings: Mapping[str, str]) -> str:
    """What an experiment makes a run reach; empty where no experiment was named, or the config cannot be read."""
    if EXPERIMENT not in settings:
        return ""
    try:
        return str(load_yaml(job.config).get("target", ""))
    except (FlowportError, AttributeError):  # no mapping
        return settings[EXPERIMENT]


def _state(job: RunFolder) -> tuple[str, str]:
    """What became of a job without all its numbers, and why."""
    status = job.path / "status.json"
    found = read_json(status) if status.exists() or status.is_symlink() else {}
    if job.pending and found.get("state") in (None, FINISHED):
        return "unfinished", f"its {job.pending} is missing: go on by flowport train run={job}"
    if found.get("state") in STATES:
        return str(found["state"]), str(found.get("error") or "")
    if job.refusal.exists():
        return "refused", job.read_refusal()
    return "unfinished", "it has written no metrics.json"


def write_tables(folder: Path, options: TableOptions) -> str:
    """Write the tables and pictures of a sweep, and its study where its runs have items.

    Written are runs.csv, table.csv, table.md, table.png, differences.csv; curves.png with ``against``; pivot.csv,
    pivot.md and pivot.png with ``pivot``; pareto.csv and pareto.png where the sweep optimises several numbers;
    translations.png where runs left pictures; atlas.csv, atlas.md and matrices for a sweep over domains (no table.png),
    whose page is the atlas.

    Args:
        folder: The folder that a multirun wrote.
        options: What is shown.

    Returns:
        What is printed.

    Raises:
        FlowportError: Where no job can be read, for metrics and overrides that no run has.
    """
    RunFolder(folder).check_links()
    finished_runs(folder)
    jobs = read_jobs(folder)
    runs = [told_by_name(job) for job in jobs if job.status == FINISHED]
    unread = [job for job in jobs if job.status == "unreadable"]
    if not runs:
        raise FlowportError(f"no job of {folder} can be read: {unread[0].error}")
    for job in unread:
        sys.stderr.write(f"flowport: left out of the table: {job.error}\n")
    sheet = marked(tabulated(runs, list(options.metrics)), runs)
    whole = tabulated(runs, [*sheet.metrics, *options.against]) if options.against else sheet
    whole = SweepTable(whole.settings, whole.metrics, whole.rows, sheet.best)
    text = whole.markdown() + _beside(sweep_files.failures(jobs))
    sweep_files.write_frame(sweep_files.table_frame(whole), folder / "table.csv")
    gaps = differences(runs, sheet.metrics, options.baseline)
    sweep_files.write_frame(sweep_files.differences_frame(sheet.settings, gaps), folder / "differences.csv")
    write_atomically(folder / "table.md", lambda place: place.write_text(text))
    atlas = translations(runs)  # whose matrices are its table's picture
    if not atlas:
        sweep_pictures.draw(whole, folder / "table.png")
    if options.against:
        sweep_pictures.draw_curves(whole, sheet.metrics, options.against, folder / "curves.png")
    sweep_pictures.compare(runs, folder / "translations.png")
    text += _pivot(runs, sheet.metrics, options.pivot, folder)
    front = _front(runs, folder)
    if atlas:  # whose items are of different data in every pair
        page: Path | None = write_blocks([*atlas_blocks(atlas, folder), *front, *_left_out(jobs)], folder)
    else:
        page = write_study(folder, [*_table_blocks(whole, folder, runs), *front], _lost(jobs))
    sweep_files.write_frame(sweep_files.runs_frame(jobs), folder / "runs.csv")  # last: all of the others are as new
    return text + (f"\n{page}" if page else "")


def _table_blocks(sheet: SweepTable, folder: Path, runs: Sequence[Job]) -> list[Block]:
    """The table of the sweep for its study, and curves of its metrics over what the runs cost, where that differs."""
    head, *rows = sheet.lines("**")
    blocks = [
        Block("head", "the table"),
        Block("text", "Mean ± standard error over seeds; floor: real target items in the place of translations."),
        Block("table", rows=(tuple(head), *map(tuple, rows))),
        Block("note", MARKED.replace("Bold", "Bold numbers")),
    ]
    metrics = [m for m in sheet.metrics if direction(m) and m not in sweep_pictures.COSTS][:SHOWN]
    costs = [name for name in sweep_pictures.COSTS[:3] if len({job.numbers.get(name) for job in runs}) > 1]
    costs = [name for name in costs if all(name in job.numbers for job in runs)]
    if metrics and costs and len(sheet.rows) > 1:
        whole = tabulated(list(runs), [*metrics, *costs])
        sweep_pictures.draw_curves(whole, metrics, costs, folder / "study_curves.png")
        caption = "Quality over what a translation costs: evaluations of the field, transport, seconds of training."
        blocks.append(Block("picture", caption, picture=folder / "study_curves.png"))
    return blocks


def _front(runs: Sequence[Job], folder: Path) -> list[Block]:
    """The Pareto front as files and for the study, where the sweep optimises several numbers."""
    try:
        names = objectives(load_yaml(folder / "multirun.yaml").get("optimise"))
    except (FlowportError, AttributeError):  # of another sweeper, which writes none
        return []
    if len(names) < 2 or not any(all(name in job.numbers for name in names) for job in runs):
        return []
    frame = pareto.front_frame(runs, names)
    sweep_files.write_frame(frame, folder / "pareto.csv")
    pareto.draw_front(frame, names, folder / "pareto.png")
    caption = f"Runs by {', '.join(names)}; on the front are those that no other run excels in all of them."
    return [Block("head", "the Pareto front"), Block("picture", caption, picture=folder / "pareto.png")]


def _lost(jobs: Sequence[Job]) -> list[str]:
    """The jobs without numbers as the study names them; it names unreadable ones by itself."""
    told = {"refused": "was refused", "failed": "failed", "killed": "was killed"}
    return [
        f"job {job.name} ({job.words}), which {told.get(job.status, 'is ' + job.status)}: {job.error}"
        for job in jobs
        if job.status not in (FINISHED, "unreadable")
    ]


def _left_out(jobs: Sequence[Job]) -> list[Block]:
    lines = _lost(jobs)
    return [Block("head", "left out"), *(Block("text", line) for line in lines)] if lines else []


def _beside(text: str) -> str:
    return f"\n{text}" if text else ""


def _pivot(runs: Sequence[Job], metrics: Sequence[str], names: tuple[str, ...], folder: Path) -> str:
    if not names:
        return ""
    pivot = sweep_files.Pivot(runs, names[0], names[1], [metric_name(metric) for metric in metrics])
    sweep_files.write_frame(pivot.frame(), folder / "pivot.csv")
    write_atomically(folder / "pivot.md", lambda place: place.write_text(pivot.markdown()))
    sweep_pictures.draw_pivot(pivot, folder / "pivot.png")
    return f"\n{pivot.markdown()}"
