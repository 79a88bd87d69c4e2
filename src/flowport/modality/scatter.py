"""Rows of clouds as one picture: a panel each, colour tells where a point came from."""

from collections.abc import Callable
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from flowport.modality.picture import blank, finish, presentable

COLUMNS, PANEL, LABEL = 8, 150, 90
Place = tuple[float, float, float, float]


def correspondence(x: Tensor, origin: Tensor) -> Tensor:
    """(n, N, 3) in [0, 1]: colour of every point of x (n, d, N) by the rank of its height, the last coordinate, at its
    origin; by its own height where the origins are clouds of another number of points."""
    height = (origin if x.shape == origin.shape else x)[:, -1]
    rank = height.argsort(1).argsort(1) / max(1, height.shape[1] - 1)
    return torch.from_numpy(colormaps["viridis"](rank.cpu().numpy())[..., :3])


def draw(rows: dict[str, Tensor], path: str, space: Callable[[Figure, Place, float], Any], **marks: Any) -> Tensor:
    """name -> clouds (n, d, N), at most 8 of a row; returns (3, H, W) uint8.

    A point keeps the colour of its height in the first row, so that rows of one trajectory show who went where.
    space: (figure, place, reach) -> axes of d dimensions from −reach to reach. marks: for matplotlib's scatter.
    """
    rows = {name: row[:COLUMNS] for name, row in presentable(rows).items()}
    across, first = max(len(row) for row in rows.values()), next(iter(rows.values()))
    figure, canvas = blank(PANEL * across + LABEL, PANEL * len(rows))
    reach = max(float(row[row.isfinite()].abs().quantile(0.999)) for row in rows.values())
    left = LABEL / (PANEL * across + LABEL)
    for r, (name, row) in enumerate(rows.items()):
        figure.text(left * 0.9, 1 - (r + 0.5) / len(rows), name, ha="right", va="center", fontsize=9)
        colours = correspondence(row, first)
        for k, cloud in enumerate(row):
            place = (left + k * (1 - left) / across, 1 - (r + 1) / len(rows), (1 - left) / across, 1 / len(rows))
            axes = space(figure, place, reach)
            axes.scatter(*cloud.numpy(), s=8, c=colours[k].numpy(), linewidths=0, **marks)
            axes.set_axis_off()
    return finish(canvas, path)
