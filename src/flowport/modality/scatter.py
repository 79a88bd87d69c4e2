"""Scatter plots of point clouds: rows of panels whose colours show the correspondence to the first row."""

import torch
from matplotlib import colormaps
from torch import Tensor

from flowport.modality.picture import blank, finish, presentable

COLUMNS, PANEL, LABEL = 8, 150, 90
"""Panels in a row; side of a panel and width of the labels, pixels."""


def correspondence(x: Tensor, origin: Tensor) -> Tensor:
    """Colours of points by the rank of the last coordinate (height) of their origins, (n, N, 3) RGB in [0, 1].

    Args:
        x: Point clouds, (n, d, N).
        origin: Clouds whose point k is the origin of point k of x, (n, d, N). Clouds of another shape are not used:
            the height of x itself then determines the colours.
    """
    height = (origin if x.shape == origin.shape else x)[:, -1]
    rank = height.argsort(1).argsort(1) / max(1, height.shape[1] - 1)
    return torch.from_numpy(colormaps["viridis"](rank.cpu().numpy())[..., :3])


def draw(rows: dict[str, Tensor], path: str, view: Tensor) -> Tensor:
    """Rows of point clouds as one picture, (3, H, W) uint8, which is also written to a file.

    A point has the colour of its height in the first row, so that the rows of one trajectory show which points
    correspond. All panels have one scale.

    Args:
        rows: Clouds (n, d, N) of every row by its label; at most 8 of a row are drawn.
        path: File to write, .png.
        view: Directions of space that are drawn right, up and towards the viewer, (3, d).

    Raises:
        FlowportError: When there is no row or a row has no cloud.
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
