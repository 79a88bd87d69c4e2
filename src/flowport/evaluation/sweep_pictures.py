"""Pictures of a sweep: its table, curves of its metrics over what a run costs, pivots, and translations in rows."""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowport.cache import write_atomically
from flowport.errors import FlowportError, is_number
from flowport.evaluation.showcase import read_showcase
from flowport.evaluation.study_pictures import REAL, plain_ticks, plane_figure, read_strip
from flowport.evaluation.sweep_files import Pivot
from flowport.evaluation.sweep_table import (
    REFERENCES,
    Job,
    MeanAndError,
    SweepTable,
    by_target,
    direction,
    grouped,
    metric_name,
    varied_settings,
)
from flowport.modality import gallery

COSTS = ("test/nfe", "test/transport_cost", "train/seconds", "test/seconds")
"""Numbers that say what a translation costs."""
ACROSS = 4
"""Number of panels of the table beside each other."""
TALLEST = 40.0
"""Largest height of the table in inches; of many settings more panels are beside each other."""
AXES = 8
"""Largest number of numbers that metrics are drawn over at once."""
WIDE = 4.0
"""Ratio of the largest to the least number from which on an axis is logarithmic."""


def compare(jobs: Sequence[Job], path: Path) -> None:
    """Draw the same held-out items by the first run of every setting, and after the runs to one target its real items.

    Points of the plane have a panel each on shared axes, other ones a row. Nothing is drawn where runs left nothing.

    Args:
        jobs: The finished runs.
        path: File of the picture.
    """
    varied, groups = varied_settings([job.settings for job in jobs]), by_target(jobs)
    points, strips = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for number, same in enumerate(groups, 1):
        ends = list[Job]()
        for setting, runs in grouped(same, varied).items():
            name = ", ".join(f"{key.rpartition('.')[2]} {word}" for key, word in zip(varied, setting, strict=True))
            ends += _first(runs, name, "translation", points, strips)
        of = f" {number}" if len(groups) > 1 else ""
        if not _first(ends, f"{REAL}{of}", "target", points, strips):
            _first(ends, f"true partner{of}", "partner", points, strips)
    if len(points) >= len(strips) and points:
        _save(plane_figure(points, {}), path)
    elif strips:
        gallery.draw(strips, str(path), tile=1)


def _first(
    jobs: Sequence[Job], name: str, row: str, points: dict[str, torch.Tensor], strips: dict[str, torch.Tensor]
) -> list[Job]:
    """Add a row by the first run that left it, to the points of the plane or to the pictures; that run, if any."""
    for job in jobs:
        examples = job.translation.parent / "examples"
        plane, strip = _plane(examples / "show.json").get(row), read_strip(examples / f"{row}.png")
        if strip is None and row == "translation":  # of a run without items
            strip = read_strip(job.translation)
        if plane is not None:
            points[name] = plane
        if strip is not None:
            strips[name] = strip
        if plane is not None or strip is not None:
            return [job]
    return []


def _plane(path: Path) -> dict[str, torch.Tensor]:
    """The points of the plane that a run shows; empty where it shows none that can be read."""
    try:
        return read_showcase(json.loads(path.read_text()), path, {}).plane if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _save(figure: Any, path: Path) -> None:
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    write_atomically(Path(path), lambda place: figure.savefig(place, dpi=110, format="png"))


def _text(name: str) -> str:
    """A name without mathematics."""
    return name.replace("$", "\\$")


def draw(sheet: SweepTable, path: Path) -> None:
    """Draw one panel per metric with a point and its standard error for every setting.

    Args:
        sheet: The table.
        path: File of the picture.
    """
    from matplotlib.figure import Figure

    names = [_text(" · ".join(values)) for values, _ in sheet.rows]
    panels, height = len(sheet.metrics), 0.32 * len(names) + 1.2
    down = min(-(-panels // ACROSS), max(1, int(TALLEST / height)))
    across = -(-panels // down)
    figure = Figure(figsize=(3.2 * across + 2.5, down * height))
    axes = figure.subplots(down, across, sharey=True, squeeze=False)
    for axis in axes.flat[len(sheet.metrics) :]:
        axis.set_axis_off()
    for axis, metric in zip(axes.flat, sheet.metrics, strict=False):
        for k, (values, cells) in enumerate(sheet.rows):
            if metric in cells:
                best = values in sheet.best.get(metric, ())
                reference = any(v.endswith(REFERENCES) for v in values)
                colour = "#8a929b" if reference else "#2f7d4f" if best else "#3b6fb6"
                axis.errorbar(cells[metric].mean, k, xerr=cells[metric].error, fmt="o", color=colour, capsize=3)
        axis.set_title(metric.removeprefix("test/"), fontsize=10)
        axis.tick_params(axis="y", labelsize=8)
        plain_ticks(axis)
        axis.grid(alpha=0.25)
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].set_ylim(len(names) - 0.4, -0.6)
    _save(figure, path)


Point = tuple[MeanAndError, MeanAndError]
"""What a setting costs, and its metric."""


def lines(sheet: SweepTable, metric: str, against: str) -> dict[str, list[Point]]:
    """The points of a metric over another number, one line per combination of the settings that name lines.

    Along a line varies the setting that has the name of the other number (``nfe`` over test/nfe), else of those
    settings whose values are all numbers the one of the most values, as ``trainer.max_steps``. Without such a setting
    every point is a line.

    Args:
        sheet: The table.
        metric: Full name of the metric.
        against: Full name of the number on the horizontal axis.

    Returns:
        Points in ascending order by the name of their line.
    """
    along, found = _along(sheet, against), dict[str, list[Point]]()
    for values, cells in sheet.rows:
        if metric in cells and against in cells and not any(v.endswith(REFERENCES) for v in values):
            others = [v for v, name in zip(values, sheet.settings, strict=True) if name != along]
            found.setdefault(" · ".join(others), []).append((cells[against], cells[metric]))
    return {name: sorted(points, key=lambda point: point[0].mean) for name, points in found.items()}


def _along(sheet: SweepTable, against: str) -> str | None:
    own = against.rpartition("/")[2]
    if own in sheet.settings:
        return own
    values = {
        name: {row[k] for row, _ in sheet.rows if not any(v.endswith(REFERENCES) for v in row)}
        for k, name in enumerate(sheet.settings)
    }
    numeric = {name: len(found) for name, found in values.items() if len(found) > 1 and all(map(is_number, found))}
    return max(numeric, key=lambda name: numeric[name], default=None)


def draw_curves(sheet: SweepTable, metrics: Sequence[str], against: Sequence[str], path: Path) -> None:
    """Draw the metrics (columns) over other numbers (rows), with error bars in both, and dashed floors.

    Args:
        sheet: The table, which has all of them.
        metrics: Full names of the metrics.
        against: Names of the numbers on the horizontal axes, with or without ``test/``.
        path: File of the picture.

    Raises:
        FlowportError: Where no metric is left, and for too many axes.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(map(metric_name, against)))
    shown = [metric for metric in metrics if metric not in names]
    if not shown:
        raise FlowportError(f"--against {against[0]} is the only metric: name another one too, as --metrics w2")
    if len(names) > AXES:
        raise FlowportError(f"--against names {len(names)} numbers, more than {AXES}: name fewer")
    figure = Figure(figsize=(4.6 * len(shown) + 2.4, 3.6 * len(names)))
    axes = figure.subplots(len(names), len(shown), squeeze=False, sharey="col")
    for row, name in zip(axes, names, strict=True):
        for axis, metric in zip(row, shown, strict=True):
            _draw_lines(axis, sheet, metric, name)
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    axes[0][-1].legend(handles.values(), handles, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
    _save(figure, path)


def _draw_lines(axis: Any, sheet: SweepTable, metric: str, against: str) -> None:
    found = lines(sheet, metric, against)
    for k, ((name, points), marker) in enumerate(zip(found.items(), cycle("osD^v<>PX*"), strict=False)):
        at, cells = zip(*points, strict=True)
        axis.errorbar(
            [c.mean for c in at],
            [c.mean for c in cells],
            [c.error for c in cells],
            [c.error for c in at],
            marker=marker,
            color=f"C{k % 10}",
            ms=4,
            lw=1,
            label=_text(name),
        )
    for values, row in sheet.rows:
        if any(v.endswith("floor") for v in values) and metric in row:
            axis.axhline(row[metric].mean, color="#8a929b", ls="--", lw=1, label="floor")
    every = [point for points in found.values() for point in points]
    if _is_wide([at.mean for at, _ in every]):
        axis.set_xscale("log", base=2 if against.endswith("nfe") else 10)
        if against.endswith("nfe"):
            axis.xaxis.set_major_formatter("{x:g}")
    if _is_wide([cell.mean for _, cell in every]) and direction(metric) > 0:
        axis.set_yscale("log")
    axis.set_xlabel(against.removeprefix("test/"), fontsize=9)
    axis.set_title(metric.removeprefix("test/"), fontsize=10)
    axis.grid(alpha=0.25, which="both")


def _is_wide(values: list[float]) -> bool:
    """Whether positive numbers are so different that a logarithmic axis shows them better."""
    return bool(values) and min(values) > 0 and max(values) >= WIDE * min(values)


def draw_pivot(pivot: Pivot, path: Path) -> None:
    """Draw one matrix of means per metric, with their errors in the cells.

    Args:
        pivot: The matrices.
        path: File of the picture.
    """
    from matplotlib.figure import Figure

    rows, columns = pivot.row_values, pivot.column_values
    size = (max(3.0, 1.0 * len(columns) + 1.6), max(2.2, 0.55 * len(rows) + 1.6))
    figure = Figure(figsize=(size[0] * len(pivot.metrics), size[1]))
    for axis, metric in zip(figure.subplots(1, len(pivot.metrics), squeeze=False)[0], pivot.metrics, strict=True):
        cells = [[pivot.cells.get((metric, row, column)) for column in columns] for row in rows]
        grid = np.array([[np.nan if cell is None else cell.mean for cell in line] for line in cells])
        colours = "Blues" if direction(metric) < 0 else "Blues_r"
        image = axis.imshow(np.ma.masked_invalid(grid), cmap=colours, aspect="auto")
        for i, line in enumerate(cells):
            for j, cell in enumerate(line):
                dark = cell is not None and sum(image.cmap(image.norm(cell.mean))[:3]) < 1.5
                text = "" if cell is None else str(cell).replace(" ± ", "\n± ")
                axis.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else "#222222")
        axis.set_xticks(range(len(columns)), [_text(name) for name in columns], fontsize=8, rotation=30, ha="right")
        axis.set_yticks(range(len(rows)), [_text(name) for name in rows], fontsize=8)
        axis.set_xlabel(_text(pivot.columns), fontsize=8)
        axis.set_ylabel(_text(pivot.rows), fontsize=8)
        axis.set_title(metric.removeprefix("test/"), fontsize=10)
    _save(figure, path)
