"""What every benchmark prints and keeps: markdown on the terminal, markdown and csv under outputs/benchmarks."""

import csv
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

OUTPUTS = Path("outputs/benchmarks")
Cell = str | int | float


def shown(cell: Cell) -> str:
    """Three significant digits for a number, text as it is."""
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; NaN for fewer than two."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def mean_and_error(values: Sequence[float]) -> str:
    """``mean ± standard error``."""
    return f"{statistics.mean(values):.4f} ± {standard_error(values):.4f}"


def middle_half(values: Sequence[float]) -> str:
    """``median (lower quartile to upper quartile)``."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.3f} ({low:.3f} to {high:.3f})"


def load() -> str:
    """How busy the machine is: its load average over the last minute, of so many cores."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def report(name: str, title: str, rows: Sequence[dict[str, Cell]], note: str = "") -> None:
    """Print a table and write it to outputs/benchmarks/<name>.md and .csv, the csv in full precision."""
    head = list(rows[0])
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(shown(row[key]) for key in head) + " |" for row in rows]
    text = "\n".join([*lines, "", *([note, ""] if note else [])])
    print(text, flush=True)
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    (OUTPUTS / f"{name}.md").write_text(text)
    with (OUTPUTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, head)
        writer.writeheader()
        writer.writerows(rows)
