"""Points in R^d, drawn as scatter plots."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from matplotlib import colormaps
from torch import Tensor

from flowport.modality.base import Modality
from flowport.modality.picture import blank, finish, presentable, short

# Pixels: size of a panel, side of its plotting square, and margins to the left and below for the tick labels.
WIDTH, HEIGHT, INSIDE, LEFT, BELOW = 260, 270, 222, 32, 24
SCALE = "viridis"
"""Colour map of the numbers of points."""
COLOURS = ("#3b6fb6", "#c8553d", "#2f8f6b", "#8a5fb0", "#b8862b", "#4f5b66")


class Plane(Modality):
    """Points in R^d, unchanged: x = raw, (n, *D) with d the size of the last axis.

    Pictures show the first two coordinates; for d = 1 the empirical distribution function.

    Args:
        columns: Number of panels in a line of a picture.
        points: Largest number of points drawn in a panel.
    """

    shown = 2000

    def __init__(self, columns: int = 6, points: int = 4000) -> None:
        self.columns, self.points = columns, points

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        """The same points in float32.

        Args:
            raw: Points, (n, *D).
            generator: Not used: points are not augmented.
        """
        return raw.to(torch.float32)

    def decode(self, x: Tensor) -> Tensor:
        return x

    def render(self, rows: dict[str, Tensor], path: str, unrelated: Collection[str] = ()) -> Tensor:
        """One scatter plot for each row, all with the same limits and equal axes, (3, H, W) uint8.

        Args:
            rows: Points (n, *D) of every row by its label.
            path: File to write, .png.
            unrelated: Not used.
        """
        return self._draw(rows, {}, path)

    def sheet(self, rows: dict[str, Tensor], numbers: Mapping[str, Tensor], path: str) -> Tensor:
        """The same with points coloured by their numbers, on one scale, and the mean number of a row above its panel.

        Args:
            rows: Points (n, *D) of every row by its label.
            numbers: A number of every point, (n,), of some of the rows by their labels.
            path: File to write, .png.
        """
        return self._draw(rows, {name: value.detach().cpu().float() for name, value in numbers.items()}, path)

    def _draw(self, rows: dict[str, Tensor], numbers: Mapping[str, Tensor], path: str) -> Tensor:
        panels = {name: _flat(row) for name, row in presentable(rows).items()}
        whole = torch.cat(list(panels.values()))
        whole = whole[whole.isfinite().all(1)]
        whole = whole if len(whole) else torch.zeros(1, 2)
        low, high = whole.amin(0), whole.amax(0)
        centre, half = (low + high) / 2, max(float((high - low).max()) * 0.54, 1e-3)
        across = min(len(panels), self.columns)
        down = math.ceil(len(panels) / across)
        width, height = WIDTH * across, HEIGHT * down
        figure, canvas = blank(width, height)
        for k, (name, points) in enumerate(panels.items()):
            left, bottom = WIDTH * (k % across) + LEFT, HEIGHT * (down - 1 - k // across) + BELOW
            axes = figure.add_axes((left / width, bottom / height, INSIDE / width, INSIDE / height))
            shown = points[: self.points]
            size = min(12.0, max(1.5, 4000 / max(len(shown), 1)))
            mean = f"  mean {short(float(numbers[name].mean()))}" if name in numbers else ""
            colour = _shades(numbers, name, len(points))
            colour = COLOURS[k % len(COLOURS)] if colour is None else colour[: self.points]
            axes.scatter(shown[:, 0], shown[:, 1], s=size, c=colour, alpha=0.55, linewidths=0)
            axes.set_title(f"{name}  (n={len(points)}){mean}", fontsize=9, y=1.0)  # a fixed height avoids a layout pass
            axes.set_xlim(float(centre[0]) - half, float(centre[0]) + half)
            axes.set_ylim(float(centre[1]) - half, float(centre[1]) + half)
            axes.locator_params(nbins=5)
            axes.tick_params(labelsize=7, length=2)
            axes.grid(alpha=0.2, linewidth=0.5)
        return finish(canvas, path)


def _shades(numbers: Mapping[str, Tensor], name: str, points: int) -> Any:
    """Colours of the points of a row, (points, 4), on a scale over all rows; None where its points have no numbers."""
    if name not in numbers or len(numbers[name]) != points:
        return None
    known = torch.cat(list(numbers.values()))
    span = float(known.max() - known.min()) or 1.0
    return colormaps[SCALE](((numbers[name] - known.min()) / span).numpy())


def _flat(x: Tensor) -> Tensor:
    """Points (n, *D) as (m, 2): the first two coordinates, or value and normalised rank for d = 1."""
    x = x.reshape(-1, x.shape[-1])
    rank = x.argsort(0).argsort(0).to(x.dtype) / max(len(x) - 1, 1)
    return torch.cat([x, rank], 1)[:, :2] if x.shape[1] == 1 else x[:, :2]
