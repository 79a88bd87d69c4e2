"""The Pareto front of a sweep: the runs that no other run excels in all of the numbers that are optimised."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowport.cache import write_atomically
from flowport.evaluation.sweep_files import runs_frame
from flowport.evaluation.sweep_table import Job, aim, aim_in_words, varied_settings

if TYPE_CHECKING:
    from pandas import DataFrame

NAMED = 12
"""Largest number of runs on the front whose names stand in the picture."""


def on_front(values: Sequence[Sequence[float]]) -> list[bool]:
    """Which points are on the Pareto front, where less is better.

    The front is {i : there is no j with y_jk ≤ y_ik for all k and y_jk < y_ik for one k}.

    Args:
        values: Numbers y of every point, (n, K).

    References:
        Ehrgott 2005, "Multicriteria Optimization", 2nd ed., section 2.1.
    """

    def excels(one: Sequence[float], other: Sequence[float]) -> bool:
        pairs = list(zip(one, other, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [not any(excels(other, point) for other in values) for point in values]


def front_frame(jobs: Sequence[Job], names: Sequence[str]) -> "DataFrame":
    """One row per run that has the numbers: job, what varies, the numbers, and whether it is on the front.

    Args:
        jobs: The finished runs.
        names: Full names of the numbers that are optimised.
    """
    shown = [job for job in jobs if all(name in job.numbers for name in names)]
    points = [[job.numbers[name] * aim(name) for name in names] for job in shown]
    frame = runs_frame(shown)
    keys = [key for key in varied_settings([job.settings for job in shown]) if key in frame]
    found = frame[["job", *keys, *names]].copy()
    found["front"] = on_front(points)
    return found


def draw_front(frame: "DataFrame", names: Sequence[str], path: Path) -> None:
    """Draw every pair of numbers, the runs on the front in colour and with the numbers of their folders.

    Args:
        frame: From ``front_frame``.
        names: Full names of the numbers that are optimised.
        path: File of the picture.
    """
    from matplotlib.figure import Figure

    pairs = list(combinations(names, 2))
    figure = Figure(figsize=(5.2 * len(pairs), 4.2))
    for axis, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        _draw_pair(axis, frame, x, y, line=len(names) == 2)
    figure.tight_layout()
    write_atomically(path, lambda place: figure.savefig(place, dpi=110, format="png"))


def _draw_pair(axis: Any, frame: "DataFrame", x: str, y: str, line: bool) -> None:
    rest, front = frame[~frame["front"]], frame[frame["front"]].sort_values([x, y])
    axis.scatter(rest[x], rest[y], s=18, color="#8a929b", label=f"{len(rest)} other runs")
    axis.scatter(front[x], front[y], s=34, color="C0", label=f"{len(front)} on the front", zorder=3)
    if line and len(front) > 1:  # what a run between two others would have to excel
        axis.step(front[x], front[y], where="post" if aim(x) > 0 else "pre", color="C0", lw=1)
    for _, row in front.head(NAMED).iterrows():
        axis.annotate(str(row["job"]), (row[x], row[y]), textcoords="offset points", xytext=(4, 4), fontsize=8)
    for name, label in ((x, axis.set_xlabel), (y, axis.set_ylabel)):
        label(aim_in_words(name), fontsize=9)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
