"""Pictures of a study: means with their intervals, confusions of classes, and the same items by every setting."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowport.cache import write_atomically
from flowport.evaluation.study import COLUMNS, IDLE, Study
from flowport.modality import gallery

PANELS = 3
"""Number of panels beside each other."""


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
        axis.tick_params(axis="x", labelsize=7)
    figure.tight_layout()
    write_atomically(path, lambda place: figure.savefig(place, dpi=110, format="png"))


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
            strips[{"partner": "true partner", "target": "real target"}.get(row, title)] = strip
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
