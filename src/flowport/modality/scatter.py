"""Scatter plots of point clouds: rows of panels whose colours show where points come from, shaded by depth."""

from collections.abc import Collection, Mapping

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from flowport.modality.picture import blank, finish, presentable, short

COLUMNS, PANEL, LABEL, CAPTION = 8, 200, 90, 26
"""Panels in a row; side of a panel, width of the labels and height of the caption, pixels."""
LINE = 18
"""Height of the line of numbers under a row, pixels."""
MARGIN = 0.06
"""Share of half a panel that stays empty at its edge, more than the radius of a point."""
NEAR, FAR, MANY = 30.0, 8.0, 200
"""Area of the nearest and the farthest points, square points; number of points from which on areas are smaller."""
HAZE, EDGE = 0.65, 0.6
"""Share of the ground in the colour of the farthest points; brightness of a point's edge as a share of its own."""
MAP, GROUND = "viridis", 0.955
"""Colour map of heights; grey of the panels."""


def correspondence(x: Tensor, origin: Tensor) -> Tensor:
    """Colours of points by the rank of the last coordinate (height) of their origins, (n, N, 3) RGB in [0, 1].

    Args:
        x: Point clouds, (n, d, N).
        origin: Clouds whose point k is the origin of point k of x, (n, d, N). Clouds of another shape are not used:
            the height of x itself then determines the colours.
    """
    height = (origin if x.shape == origin.shape else x)[:, -1]
    rank = height.argsort(1).argsort(1) / max(1, height.shape[1] - 1)
    return torch.from_numpy(colormaps[MAP](rank.cpu().numpy())[..., :3])


def draw(
    rows: dict[str, Tensor],
    path: str,
    view: Tensor,
    unrelated: Collection[str] = (),
    numbers: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Rows of point clouds as one picture, (3, H, W) uint8, which is also written to a file.

    A point has the colour of its height in the first row, so that the rows of one trajectory show which points
    correspond; in rows that are ``unrelated``, of its own height. The caption of several rows says so. Points farther
    from the viewer are smaller and paler. All panels have one scale, at which every finite point is within its panel.

    Args:
        rows: Clouds (n, d, N) of every row by its label; at most 8 of a row are drawn.
        path: File to write, .png.
        view: Directions of space that are drawn right, up and towards the viewer, (3, d).
        unrelated: Labels of the rows whose points are not those of the first row.
        numbers: A number of every cloud, (n,), which is written under it, of some of the rows by their labels.

    Raises:
        FlowportError: When there is no row or a row has no cloud.
    """
    rows = {name: row[:COLUMNS] for name, row in presentable(rows).items()}
    first = next(iter(rows.values()))
    own = [name for name, row in rows.items() if name in unrelated or row.shape != first.shape]
    seen = {name: view.to(row) @ row for name, row in rows.items()}
    reach = max(extent(row) for row in seen.values()) or 1.0
    numbers = numbers or {}
    tops = [PANEL * r + LINE * sum(name in numbers for name in list(rows)[:r]) for r in range(len(rows) + 1)]
    width, height = LABEL + PANEL * max(len(row) for row in rows.values()), tops[-1]
    height += CAPTION if len(rows) > 1 else 0
    figure, canvas = blank(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for top, (name, row) in zip(tops, seen.items(), strict=False):
        axes.text(LABEL * 0.9, top + 0.5 * PANEL, name, ha="right", va="center", fontsize=9)
        colours = correspondence(rows[name], rows[name] if name in own else first)
        for k, cloud in enumerate(row):
            _panel(axes, (LABEL + PANEL * k, top), cloud / reach, colours[k])
        for k, number in enumerate(numbers.get(name, torch.empty(0))[: len(row)].tolist()):
            place = LABEL + PANEL * (k + 0.5), top + PANEL + LINE / 2
            axes.text(*place, short(number), ha="center", va="center", fontsize=8)
    if len(rows) > 1:
        _legend(axes, height - CAPTION / 2, caption(list(rows), own))
    return finish(canvas, path)


def extent(seen: Tensor) -> float:
    """The largest finite distance to the right of the middle, to the left, up or down, of clouds (n, 3, N); 0 without.

    Args:
        seen: Coordinates as they are drawn.
    """
    return float(seen[:, :2].abs().nan_to_num(0.0, 0.0, 0.0).max())


def _panel(axes: Axes, corner: tuple[float, float], cloud: Tensor, colours: Tensor) -> None:
    """One cloud (3, N), with its first two coordinates within [−1, 1], in the panel with that upper left corner."""
    axes.add_patch(Rectangle((corner[0] + 1, corner[1] + 1), PANEL - 2, PANEL - 2, facecolor=str(GROUND), linewidth=0))
    order = cloud[2].argsort()  # the nearest are drawn last
    order = order[cloud[:, order].isfinite().all(0)]
    right, up, near = cloud[:, order]
    span = near.max() - near.min() if len(near) else 0.0
    depth = (near - near.min()) / span if span > 0 else torch.ones_like(near)  # all are near in the plane
    half = PANEL / 2
    x, y = corner[0] + half + half * (1 - MARGIN) * right, corner[1] + half - half * (1 - MARGIN) * up
    clear = (1 - HAZE * (1 - depth))[:, None]
    face, edge = (GROUND + clear * (share * colours[order] - GROUND) for share in (1, EDGE))
    size = (FAR + (NEAR - FAR) * depth) * min(1.0, (MANY / max(1, len(near))) ** 0.5)
    axes.scatter(x.numpy(), y.numpy(), s=size.numpy(), c=face.numpy(), edgecolors=edge.tolist(), linewidths=0.5)


def caption(names: list[str], own: list[str]) -> str:
    """What the colours of a picture of several rows are.

    Args:
        names: Labels of all rows.
        own: Labels of the rows whose points have the colour of their own height.
    """
    if len(names) == len(own) + 1:
        return "low to high: height of a point"
    beside = f"; in {', '.join(own)}: its own height" if own else ""
    return f"low to high: height of a point in the row {names[0]}{beside}"


def _legend(axes: Axes, y: float, words: str) -> None:
    """A scale of colours from low to high, and the words."""
    for k, colour in enumerate(colormaps[MAP](torch.linspace(0, 1, 60).numpy())):
        axes.add_patch(Rectangle((LABEL + k, y - 5), 1.5, 10, facecolor=colour, linewidth=0))
    axes.text(LABEL + 68, y, words, ha="left", va="center", fontsize=8)
