"""The runs of a sweep as one table: a row per setting, with mean ± standard error over seeds."""

import csv
import io
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flowport.cache import write_atomically
from flowport.errors import FlowportError, printable
from flowport.evaluation.tables import no_formula
from flowport.modality import gallery

SEED = "seed"
COLUMNS = 64
"""Largest number of settings and of metrics of a table."""
REFERENCES = ("untranslated", "retrieved", "floor")
"""Suffixes of the names of a metric's baselines."""


@dataclass(frozen=True)
class Job:
    """A finished run of a sweep.

    Args:
        settings: Its overrides, key to value.
        numbers: Its metrics.
        translation: The picture of its translations, which need not exist.
    """

    settings: dict[str, str]
    numbers: dict[str, float]
    translation: Path

    @classmethod
    def of(cls, settings: dict[str, str], values: Mapping[str, Any], translation: Path) -> "Job":
        """A job with those of its values that are numbers.

        Args:
            settings: Its overrides, key to value.
            values: What its metrics.json holds.
            translation: The picture of its translations, which need not exist.
        """
        numbers = {
            name: float(value)
            for name, value in values.items()
            if (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max)
            or isinstance(value, float)
        }
        return cls(settings, numbers, translation)


@dataclass(frozen=True)
class MeanAndError:
    """Mean over n runs and its standard error s/√n (0 for one run).

    Args:
        mean: The mean.
        error: Its standard error.
        n: Number of runs.
    """

    mean: float
    error: float
    n: int

    @classmethod
    def of(cls, values: list[float]) -> "MeanAndError":
        """The mean of numbers and its standard error.

        Args:
            values: One number per run.
        """
        n = len(values)  # statistics sums exactly: equal numbers have no spread
        if n < 2 or not all(map(math.isfinite, values)):
            return cls(math.fsum(values) / n, 0.0, n)
        return cls(statistics.fmean(values), statistics.stdev(values) / math.sqrt(n), n)

    def __str__(self) -> str:
        if not math.isfinite(self.mean) or not math.isfinite(self.error):
            return f"{self.mean}"
        digits = 3 if self.error == 0 else max(0, min(6, 1 - math.floor(math.log10(self.error))))
        if self.error == 0 and self.mean != 0:
            digits = max(0, 2 - math.floor(math.log10(abs(self.mean))))
        return f"{self.mean:.{digits}f}" + (f" ± {self.error:.{digits}f}" if self.n > 1 else "")


@dataclass(frozen=True)
class SweepTable:
    """A table of the runs of a sweep.

    Args:
        settings: Names of the settings that vary.
        metrics: Names of the metrics, in the order of the columns.
        rows: Values of the settings and mean and error of each metric.
    """

    settings: list[str]
    metrics: list[str]
    rows: list[tuple[tuple[str, ...], dict[str, MeanAndError]]]

    def lines(self) -> list[list[str]]:
        """Header and rows as text without control characters."""
        head = [*self.settings, "runs", *(m.removeprefix("test/") for m in self.metrics)]
        body = [
            [
                *values,
                str(max((c.n for c in cells.values()), default=0)),
                *(str(cells[m]) if m in cells else "" for m in self.metrics),
            ]
            for values, cells in self.rows
        ]
        return [[printable(cell) for cell in line] for line in (head, *body)]

    def markdown(self) -> str:
        """The table as Markdown, in which no cell is markup."""
        head, *body = ([escape(cell).replace("|", "\\|").replace("`", "'") for cell in line] for line in self.lines())
        rule = ["---"] * len(self.settings) + ["---:"] * (len(head) - len(self.settings))
        return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body]) + "\n"


def tabulated(jobs: list[Job], metrics: list[str]) -> SweepTable:
    """The table of a sweep.

    Reference rows (untranslated, retrieved, floor) follow, for each group of settings in which they were measured.

    Args:
        jobs: The finished runs, at least one.
        metrics: Names with or without ``test/``; none: every test metric.

    Raises:
        FlowportError: For a metric that no run has, for runs without metrics, and for too many columns.
    """
    varied = varied_settings([job.settings for job in jobs])
    wanted = [m if "/" in m else f"test/{m}" for m in metrics] or _headline(jobs)
    if not wanted:
        raise FlowportError(
            "the runs of this sweep have no metrics: name columns, for instance --metrics train/seconds"
        )
    if max(len(varied), len(wanted)) > COLUMNS:
        raise FlowportError(
            f"this sweep has {len(varied)} settings that vary and {len(wanted)} metrics, more than {COLUMNS} columns: "
            "name the metrics by --metrics"
        )
    for name in wanted:
        if not any(name in job.numbers for job in jobs):
            known = sorted({m for job in jobs for m in job.numbers if m.startswith("test/")})
            raise FlowportError(f"no run of this sweep has a metric {name}; they have {', '.join(known)}")
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for job in jobs:
        groups.setdefault(tuple(job.settings.get(key, "") for key in varied), []).append(job.numbers)
    rows = [(setting, _cells(numbers, wanted, "")) for setting, numbers in groups.items()]
    for reference in REFERENCES:
        rows += _reference_rows(varied, groups, wanted, reference)
    return SweepTable(varied, wanted, rows)


def varied_settings(settings: list[dict[str, str]]) -> list[str]:
    """The keys whose values differ between runs, without the seed; the first key where none differs.

    Args:
        settings: Overrides of every run, key to value.
    """
    keys = list(dict.fromkeys(key for words in settings for key in words if key != SEED))
    return [key for key in keys if len({words.get(key) for words in settings}) > 1] or keys[:1]


def _headline(jobs: list[Job]) -> list[str]:
    hidden = (
        "nfe",
        "_n",
        "_se",
        "_chance",
        "_matched",
        "_ceiling",
        "_least",
        "_left_out",
        "_of",
        "seconds",
        "_per_dimension",
        *REFERENCES,
    )
    names = dict.fromkeys(m for job in jobs for m in job.numbers if m.startswith("test/"))
    return [m for m in names if not m.endswith(hidden)]


def _cells(runs: list[dict[str, float]], wanted: list[str], suffix: str) -> dict[str, MeanAndError]:
    values = {m: [r[m + suffix] for r in runs if m + suffix in r] for m in wanted}
    return {m: MeanAndError.of(v) for m, v in values.items() if v}


def _reference_rows(
    varied: list[str], groups: dict[tuple[str, ...], list[dict[str, float]]], wanted: list[str], reference: str
) -> list[tuple[tuple[str, ...], dict[str, MeanAndError]]]:
    """Rows of a reference: it depends on the data alone, so equal values of the first setting share a row."""
    seen = dict[str, list[dict[str, float]]]()
    for setting, runs in groups.items():
        seen.setdefault(setting[0] if setting else "any", []).extend(runs)
    same = dict[tuple[str, ...], list[str]]()
    for first, runs in seen.items():
        cells = _cells(runs, wanted, f"_{reference}")
        if cells:
            same.setdefault(tuple(f"{m}{cell.mean:.6g}" for m, cell in cells.items()), []).append(first)
    rows = []
    for firsts in same.values():
        name = "any" if len(same) == 1 and len(firsts) > 1 else ", ".join(firsts)
        rows.append((name, _cells(seen[firsts[0]], wanted, f"_{reference}")))
    alone = len(varied) < 2
    return [
        ((f"{first}: {reference}",)[: len(varied) or 1] if alone else (first, *[reference] * (len(varied) - 1)), cells)
        for first, cells in rows
    ]


def write(sheet: SweepTable, jobs: list[Job], folder: Path, against: str | None = None) -> None:
    """Write table.csv, table.md, table.png and, where runs left pictures, translations.png.

    Args:
        sheet: The table.
        jobs: Its runs.
        folder: Where the files go.
        against: The metric that the others are drawn over.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([no_formula(cell) for cell in row] for row in sheet.lines())
    write_atomically(folder / "table.csv", lambda place: place.write_text(text.getvalue(), newline=""))
    write_atomically(folder / "table.md", lambda place: place.write_text(sheet.markdown()))
    if against is None:
        draw(sheet, folder / "table.png")
    else:
        draw_against(sheet, against, folder / "table.png")
    _compare(jobs, folder / "translations.png")


def _compare(jobs: list[Job], path: Path) -> None:
    """Draw the translations of the first run of every setting, one row per setting."""
    rows, varied = dict[str, torch.Tensor](), varied_settings([job.settings for job in jobs])
    for job in jobs:
        if job.translation.is_file():
            strip = torch.from_numpy(np.asarray(Image.open(job.translation, formats=["PNG"]).convert("RGB")).copy())
            name = ", ".join(f"{key.rpartition('.')[2]} {job.settings.get(key, '')}" for key in varied)
            rows.setdefault(name, strip.permute(2, 0, 1)[None] / 255)
    if rows:
        gallery.draw(rows, str(path), tile=1)


def draw(sheet: SweepTable, path: Path) -> None:
    """Draw one panel per metric with a point and its standard error for every setting.

    Args:
        sheet: The table.
        path: File of the picture.
    """
    from matplotlib.figure import Figure

    names = [" · ".join(values).replace("$", "\\$") for values, _ in sheet.rows]  # no mathematics
    width, height = 3.2 * len(sheet.metrics) + 2.5, 0.32 * len(names) + 1.2
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(1, len(sheet.metrics), sharey=True, squeeze=False)
    for axis, metric in zip(axes[0], sheet.metrics, strict=True):
        for k, (values, cells) in enumerate(sheet.rows):
            if metric in cells:
                colour = "#8a929b" if any(v.endswith(REFERENCES) for v in values) else "#3b6fb6"
                axis.errorbar(cells[metric].mean, k, xerr=cells[metric].error, fmt="o", color=colour, capsize=3)
        axis.set_title(metric.removeprefix("test/"), fontsize=10)
        axis.grid(alpha=0.25)
    axes[0][0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    write_atomically(Path(path), lambda place: figure.savefig(place, dpi=110, format="png"))


def lines(sheet: SweepTable, metric: str, against: str) -> dict[str, list[tuple[float, MeanAndError]]]:
    """The points of a metric over another one for every combination of the remaining settings, in ascending order.

    Args:
        sheet: The table.
        metric: The metric.
        against: Name of a metric without ``test/``, and of the setting that is left out.
    """
    found = dict[str, list[tuple[float, MeanAndError]]]()
    for values, cells in sheet.rows:
        if metric in cells and f"test/{against}" in cells:
            others = [v for v, name in zip(values, sheet.settings, strict=True) if name != against]
            found.setdefault(" · ".join(others), []).append((cells[f"test/{against}"].mean, cells[metric]))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items()}


def draw_against(sheet: SweepTable, against: str, path: Path) -> None:
    """Draw one log-log panel per metric with its lines over another metric, and dashed floors.

    Args:
        sheet: The table.
        against: Name of the metric on the horizontal axis, without ``test/``.
        path: File of the picture.

    Raises:
        FlowportError: Where there is no other metric.
    """
    from matplotlib.figure import Figure

    metrics = [m for m in sheet.metrics if m != f"test/{against}"]
    if not metrics:
        raise FlowportError(f"--against {against} is the only metric: name another one too, as --metrics w2")
    figure = Figure(figsize=(6.4 * len(metrics), 4.6))
    axes = figure.subplots(1, len(metrics), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for (name, points), marker in zip(lines(sheet, metric, against).items(), cycle("osD^v<>PX*"), strict=False):
            at, cells = zip(*points, strict=True)
            axis.errorbar(at, [c.mean for c in cells], [c.error for c in cells], marker=marker, ms=4, lw=1, label=name)
        for values, row in sheet.rows:
            if any(v.endswith("floor") for v in values) and metric in row:
                axis.axhline(row[metric].mean, color="#8a929b", ls="--", lw=1, label="floor")
        axis.set(yscale="log", xlabel=against, title=metric.removeprefix("test/"))
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.25, which="both")
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    write_atomically(Path(path), lambda place: figure.savefig(place, dpi=110, format="png"))
