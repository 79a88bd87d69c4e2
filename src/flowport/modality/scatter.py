"""Rows of clouds as one picture: a panel each, colour tells where a point came from."""

import torch
from matplotlib import colormaps
from torch import Tensor

from flowport.modality.picture import blank, finish, presentable

COLUMNS, PANEL, LABEL = 8, 150, 90
"""Panels in a row, their side and the width of the labels in pixels."""


def correspondence(x: Tensor, origin: Tensor) -> Tensor:
    """(n, N, 3) in [0, 1]: colour of every point of x (n, d, N) by the rank of its height, the last coordinate, at its
    origin; by its own height where the origins are clouds of another number of points."""
    height = (origin if x.shape == origin.shape else x)[:, -1]
    rank = height.argsort(1).argsort(1) / max(1, height.shape[1] - 1)
    return torch.from_numpy(colormaps["viridis"](rank.cpu().numpy())[..., :3])


def draw(rows: dict[str, Tensor], path: str, view: Tensor) -> Tensor:
    """name -> clouds (n, d, N), at most 8 of a row; returns (3, H, W) uint8.

    A point keeps the colour of its height in the first row, so that rows of one trajectory show who went where.
    view: (3, d) directions of space that are seen to the right, upwards and towards the eye. All panels have one scale.
    """
    rows = {name: row[:COLUMNS] for name, row in presentable(rows).items()}
    across, first = max(len(row) for row in rows.values()), next(iter(rows.values()))
    seen = {name: view.to(row) @ row for name, row in rows.items()}
    flat = torch.cat([row[:, :2].flatten() for row in seen.values()])
    reach = 1.04 * float(flat[flat.isfinite()].abs().quantile(0.999)) if bool(flat.isfinite().any()) else 1.0
    width, height = LABEL + PANEL * across, PANEL * len(rows)
    figure, canvas = blank(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for r, (name, row) in enumerate(seen.items()):
        axes.text(LABEL * 0.9, (r + 0.5) * PANEL, name, ha="right", va="center", fontsize=9)
        colours = correspondence(rows[name], first)
        for k, (right, up, near) in enumerate(row):
            order = near.argsort()  # the nearest are drawn last
            order = order[(right[order].abs() <= reach) & (up[order].abs() <= reach)]
            x, y = LABEL + PANEL * (k + 0.5 + 0.5 * right / reach), PANEL * (r + 0.5 - 0.5 * up / reach)
            axes.scatter(x[order].numpy(), y[order].numpy(), s=8, c=colours[k][order].numpy(), linewidths=0)
    return finish(canvas, path)
