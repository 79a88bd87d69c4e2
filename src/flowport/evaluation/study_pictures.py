"""Pictures of a study: means with their intervals, confusions of classes, and the same items by every setting."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowport.cache import write_atomically
from flowport.evaluation.study import COLUMNS, IDLE, Study
from flowport.modality import gallery

PANELS, PLANES = 3, 4
"""Number of panels beside each other: of numbers, and of points of the plane."""
TITLE = 40
"""Largest number of characters in a line of a panel's title."""
REAL = "real target"
"""Name of the row of target items, with which names of such rows begin."""


def plain_ticks(axis: Any) -> None:
    """Few and short numbers on a horizontal axis, so that they do not overlap.

    Args:
        axis: A panel of matplotlib.
    """
    axis.locator_params(axis="x", nbins=4)
    axis.ticklabel_format(axis="x", scilimits=(-2, 4))
    axis.tick_params(axis="x", labelsize=7)
    axis.xaxis.get_offset_text().set_fontsize(7)


def draw_bars(study: Study, path: Path) -> None:
    """Draw one panel per number: a bar with its interval for every setting, a grey one for untranslated items.

    Args:
        study: The study.
        path: File of the picture, .png.
    """
    from matplotlib.figure import Figure

    panels, across = study.comparisons, min(PANELS, len(study.comparisons))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(3.1 * across + 1.8, down * (0.36 * (len(study.groups) + 1) + 1.3)))
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(axes, panels, strict=False):
        bars = dict(panel.values) | ({IDLE: panel.idle} if panel.idle else {})
        green = panel.best if study.marks(panel) else None
        for k, (label, value) in enumerate(bars.items()):
            colour = "#b6bcc3" if label == IDLE else "#2f7d4f" if label == green else "#3b6fb6"
            ends = None if math.isnan(value.low) else [[value.mean - value.low], [value.high - value.mean]]
            axis.barh(k, value.mean, xerr=ends, color=colour, capsize=3, height=0.7, error_kw={"lw": 1.2})
        for (name, at), style in zip(panel.lines.items(), ("--", ":"), strict=False):
            axis.axvline(at, color="#333333", ls=style, lw=1, label=name)
        if panel.lines:
            axis.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, -0.42), ncols=2, frameon=False)
        axis.set_yticks(range(len(bars)), [label.replace("$", "\\$") for label in bars], fontsize=8)
        axis.invert_yaxis()
        number = COLUMNS[panel.column]
        axis.set_title(number.title + (f"\n({number.better} is better)" if number.better else ""), fontsize=9)
        axis.grid(alpha=0.25, axis="x")
        plain_ticks(axis)
    figure.tight_layout()
    write_atomically(path, lambda place: figure.savefig(place, dpi=110, format="png"))


def plane_figure(rows: Mapping[str, Tensor], ways: Mapping[str, Tensor]) -> Any:
    """A figure of matplotlib with one panel per row of points of the plane, all with the same axes.

    Args:
        rows: Points (n, 2) of every row by its name.
        ways: Trajectories (K+1, n, 2) of some rows.
    """
    from matplotlib.figure import Figure

    down = -(-len(rows) // PLANES)
    across = -(-len(rows) // down)
    every = torch.cat([*rows.values(), *(way.flatten(0, 1) for way in ways.values())])
    width, height = (every.amax(0) - every.amin(0)).clamp_min(1e-9).tolist()
    side = 2.3 * min(max(height / width, 0.4), 2.0)
    figure = Figure(figsize=(2.7 * across, (side + 0.5) * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten()
    for axis in axes[len(rows) :]:
        axis.set_axis_off()
    for axis, (name, x) in zip(axes, rows.items(), strict=False):
        if name in ways:
            axis.plot(ways[name][:, :, 0].numpy(), ways[name][:, :, 1].numpy(), color="#9aa3ad", lw=0.5, alpha=0.7)
        colour = "#8a5fb0" if name == "source" else "#2f7d4f" if name.startswith(REAL) else "#3b6fb6"
        axis.scatter(x[:, 0], x[:, 1], s=4, c=colour, alpha=0.7, linewidths=0)
        lines = [name] if len(name) <= TITLE else name.split(", ")
        axis.set_title("\n".join(fill(line, TITLE) for line in lines).replace("$", "\\$"), fontsize=8)
        axis.set_aspect("equal")
        axis.grid(alpha=0.2)
        axis.tick_params(labelsize=7)
    return figure


def confusions(study: Study) -> tuple[dict[str, dict[str, Counter[str]]], list[str]]:
    """The confusion of classes of every setting, summed over its seeds, and the names of the classes after.

    Args:
        study: The study.
    """
    panels, after = dict[str, dict[str, Counter[str]]](), set[str]()
    for label, group in study.groups.items():
        total = dict[str, Counter[str]]()
        for run in group:
            for before, row in (run.table.confusion() or {}).items():
                total.setdefault(before, Counter()).update(row)
                after |= set(row) | {before}
        if total:
            panels[label] = dict(sorted(total.items()))
    return panels, sorted(after)


def draw_examples(study: Study, path: Path) -> list[str]:
    """Draw the same items: before, by every setting's first run, and their true partners.

    Args:
        study: The study.
        path: File of the picture, .png; not written where there are no pictures.

    Returns:
        The names of the items.
    """
    first = next(iter(study.groups.values()))[0]
    names = [first.table.names[k] for k in first.table.examples()]
    strips = dict[str, Tensor]()
    for title, row in (
        ("source", "source"),
        *((label, "translation") for label in study.groups),
        ("partner", "partner"),
        ("target", "target"),
    ):
        run = study.groups[title][0] if row == "translation" else first
        strip = read_strip(run.pictures.get(row))
        same = [run.table.names[k] for k in run.table.examples()] == names
        if strip is not None and same:
            strips[{"partner": "true partner", "target": REAL}.get(row, title)] = strip
        elif strip is not None:
            study.notes.append(f"{run.name} shows other items and is not in the picture of examples")
    if strips:
        gallery.draw(strips, str(path), tile=1)
    return names if strips else []


def read_strip(path: Path | None) -> Tensor | None:
    """A picture as (1, 3, H, W) in [0, 1]; None where there is none that can be read.

    Args:
        path: Its file, .png, or None.
    """
    if path is None:
        return None
    try:
        pixels = np.asarray(Image.open(path, formats=["PNG"]).convert("RGB")).copy()
    except Exception:  # a damaged picture, which may raise anything
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
