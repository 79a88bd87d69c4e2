"""The tables of a sweep as files: runs.csv, table.csv, differences.csv and pivot.csv, written through pandas."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowport.cache import write_atomically
from flowport.errors import FlowportError, printable
from flowport.evaluation.sweep_differences import Difference
from flowport.evaluation.sweep_table import (
    FINISHED,
    SEED,
    Job,
    MeanAndError,
    SweepTable,
    as_markdown,
    runs_of,
    varied_settings,
)
from flowport.evaluation.tables import no_formula

if TYPE_CHECKING:
    from pandas import DataFrame


def runs_frame(jobs: Sequence[Job]) -> "DataFrame":
    """One tidy row per run: job, status, error, every override, every number; numbers are numbers.

    An override whose values are all numbers is a column of numbers. What a run does not have is missing.

    Args:
        jobs: The runs, finished or not.
    """
    import pandas

    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    names = dict.fromkeys(name for job in jobs for name in job.numbers)
    known = pandas.DataFrame({"job": job.name, "status": job.status, "error": printable(job.error)} for job in jobs)
    settings = pandas.DataFrame([{key: job.settings.get(key) for key in keys} for job in jobs], dtype=object)
    numbers = pandas.DataFrame(
        [{name: job.numbers.get(name, math.nan) for name in names} for job in jobs], dtype="float64"
    )
    columns = [known.set_axis(["job", "status", "error"], axis=1), settings.apply(_as_numbers), numbers]
    return pandas.concat([column for column in columns if column.shape[1]], axis=1)


def _as_numbers(column: Any) -> Any:
    """A column of text as numbers, where every value that is there is one."""
    import pandas

    numbers = pandas.to_numeric(column, errors="coerce")
    if not bool((numbers.notna() == column.notna()).all()) or not bool(column.notna().any()):
        return column
    whole = bool((numbers.dropna() % 1 == 0).all()) and bool((numbers.dropna().abs() < 2**53).all())
    return numbers.astype("Int64") if whole else numbers.astype("float64")


def table_frame(sheet: SweepTable) -> "DataFrame":
    """One row per setting and reference: its settings, and mean, standard error and n of every metric in columns.

    The standard error of one run is missing.

    Args:
        sheet: The table.
    """
    import pandas

    rows = []
    for values, cells in sheet.rows:
        row: dict[str, Any] = dict(zip(sheet.settings, values, strict=False)) | {"runs": runs_of(cells)}
        for metric in sheet.metrics:
            name = metric.removeprefix("test/")
            row |= _columns(name, cells.get(metric))
        rows.append(row)
    return pandas.DataFrame(rows)


def _columns(name: str, cell: MeanAndError | None) -> dict[str, Any]:
    return {
        f"{name} mean": math.nan if cell is None else cell.mean,
        f"{name} standard error": math.nan if cell is None or cell.n < 2 else cell.error,
        f"{name} n": 0 if cell is None else cell.n,
    }


def differences_frame(settings: Sequence[str], gaps: Sequence[Difference]) -> "DataFrame":
    """One row per metric and setting: its paired difference from the baseline, its error, and whether it is within.

    Args:
        settings: Names of the settings.
        gaps: The differences.
    """
    import pandas

    rows = [
        {
            "metric": gap.metric,
            **dict(zip(settings, gap.setting, strict=True)),
            "minus": " · ".join(gap.baseline),
            "difference": math.nan if gap.value is None else gap.value.mean,
            "standard error": math.nan if gap.value is None or gap.value.n < 2 else gap.value.error,
            "seeds": 0 if gap.value is None else gap.value.n,
            "interval": gap.margin,
            "within error": {None: "", True: "yes", False: "no"}[gap.within_error],
        }
        for gap in gaps
    ]
    return pandas.DataFrame(rows)


def write_frame(frame: "DataFrame", path: Path) -> None:
    """Write a table as csv, atomically; text that begins like a formula gets an apostrophe.

    Args:
        frame: The table.
        path: The file.
    """
    safe = frame.copy()
    safe.columns = [no_formula(printable(str(name))) for name in safe.columns]
    for k, kind in enumerate(safe.dtypes):
        if kind.kind not in "iufb":  # text
            cells = [no_formula(printable(cell)) if isinstance(cell, str) else cell for cell in safe.iloc[:, k]]
            safe.isetitem(k, cells)
    write_atomically(path, lambda place: safe.to_csv(place, index=False, lineterminator="\n"))


def failures(jobs: Sequence[Job]) -> str:
    """The jobs that did not finish as a Markdown list, each with its overrides and why; empty where there is none.

    Args:
        jobs: All jobs of a sweep.
    """
    lost = [job for job in jobs if job.status != FINISHED]
    lines = [f"* job {job.name}, {job.status} ({job.words}): {printable(job.error)}" for job in lost]
    plain = "\n".join(line.replace("<", "&lt;").replace("`", "'").rstrip(": ") for line in lines)
    return f"{len(lost)} of {len(jobs)} jobs have no numbers:\n\n{plain}\n" if lost else ""


class Pivot:
    """Means of metrics for all pairs of values of two settings, over the runs of all other settings and seeds.

    Args:
        jobs: The finished runs.
        rows: The override of the rows, by its key or the last part of it.
        columns: The override of the columns.
        metrics: Full names of the metrics.

    Raises:
        FlowportError: For an override that no run has, and for one override twice.
    """

    def __init__(self, jobs: Sequence[Job], rows: str, columns: str, metrics: Sequence[str]) -> None:
        self.rows, self.columns = (_key(jobs, word) for word in (rows, columns))
        if self.rows == self.columns:
            raise FlowportError(f"--pivot {rows} {columns} names one override twice: name two")
        self.metrics = list(metrics)
        frame = runs_frame(jobs)
        self.row_values, self.column_values = (_values(frame[key]) for key in (self.rows, self.columns))
        varied = varied_settings([job.settings for job in jobs])
        self.over = [key for key in varied if key not in (self.rows, self.columns)]
        self.cells = dict[tuple[str, str, str], MeanAndError]()
        for metric in self.metrics:
            known = frame[frame[metric].notna()]
            for pair, same in known.groupby([self.rows, self.columns], sort=False):
                at = (metric, str(pair[0]), str(pair[1]))
                self.cells[at] = MeanAndError.of([float(value) for value in same[metric]])

    def frame(self) -> "DataFrame":
        """One row per metric and value of the rows; mean, standard error and n of every value of the columns."""
        import pandas

        found = []
        for metric in self.metrics:
            for row in self.row_values:
                line: dict[str, Any] = {"metric": metric, self.rows: row}
                for column in self.column_values:
                    line |= _columns(f"{self.columns}={column}", self.cells.get((metric, row, column)))
                found.append(line)
        return pandas.DataFrame(found)

    def markdown(self) -> str:
        """A matrix per metric as Markdown."""
        over = ", ".join([*self.over, *(["seeds"] if SEED not in (self.rows, self.columns) else [])])
        parts = []
        for metric in self.metrics:
            lines = [[f"{self.rows} \\ {self.columns}", *self.column_values]]
            for row in self.row_values:
                cells = [self.cells.get((metric, row, column)) for column in self.column_values]
                lines.append([row, *("" if cell is None else str(cell) for cell in cells)])
            lines = [[printable(cell) for cell in line] for line in lines]
            parts.append(f"{metric.removeprefix('test/')}, mean ± standard error over {over or 'runs'}:\n\n")
            parts.append(as_markdown(lines) + "\n")
        return "".join(parts)


def _values(column: Any) -> list[str]:
    """The different values of a column as text, numbers in their order."""
    values = list(column.dropna().unique())
    return [str(value) for value in (sorted(values) if column.dtype.kind in "iuf" else values)]


def _key(jobs: Sequence[Job], word: str) -> str:
    keys = list(dict.fromkeys(key for job in jobs for key in job.settings if key != "sweep"))
    found = [key for key in keys if word in (key, key.rpartition(".")[2], key.rpartition("@")[2])]
    if word in keys or len(found) == 1:
        return word if word in keys else found[0]
    if found:
        raise FlowportError(f"--pivot {word} may be {' or '.join(found)}: write the whole key")
    raise FlowportError(f"no run of this sweep has an override {word}; they have {', '.join(keys)}")
