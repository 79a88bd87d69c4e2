"""Galleries: rows of images as one picture, enlarged by whole factors, with a label at the left of each row."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowport.modality.picture import blank, finish, presentable, short

TILE, GAP, MARGIN, COLUMNS, PAPER, CHARACTER = 56, 4, 10, 16, 1.0, 7.6
LINE = 14
"""Height of a line of numbers under a row, pixels."""


def draw(rows: dict[str, Tensor], path: str, tile: int = TILE, numbers: Mapping[str, Tensor] | None = None) -> Tensor:
    """A gallery of images as one picture, (3, H, W) uint8, which is also written to a file.

    Args:
        rows: Images (n, C, H, W) of every row by its label; at most 16 of a row are drawn. Values are clamped to
            [0, 1] and pixels that are not finite are red. C ≥ 3: the first three channels are RGB; else the first one
            is grey.
        path: File to write, .png.
        tile: Height in pixels to which images are enlarged, approximately, by a whole factor.
        numbers: A number of every image, (n,), which is written under it, of some of the rows by their labels.

    Raises:
        FlowportError: When there is no row or a row has no image.
    """
    strips = {name: _strip(row[:COLUMNS], tile) for name, row in presentable(rows).items()}
    below = {name: LINE if name in (numbers or {}) else 0 for name in strips}
    label = int(CHARACTER * max(len(name) for name in strips)) + 2 * MARGIN
    width = label + max(strip.shape[2] for strip in strips.values()) + MARGIN
    height = sum(strip.shape[1] + below[name] + GAP for name, strip in strips.items()) - GAP + 2 * MARGIN
    page, top, tops = torch.full((3, height, width), PAPER), MARGIN, {}
    for name, strip in strips.items():
        page[:, top : top + strip.shape[1], label : label + strip.shape[2]] = strip
        tops[name] = top
        top += strip.shape[1] + below[name] + GAP
    figure, canvas = blank(width, height)
    figure.figimage(page.permute(1, 2, 0).numpy(), origin="upper")
    for name, strip in strips.items():
        middle = 1 - (tops[name] + strip.shape[1] / 2) / height
        figure.text((label - MARGIN) / width, middle, name, ha="right", va="center", fontsize=9, color="#222222")
        if below[name]:
            line = 1 - (tops[name] + strip.shape[1] + LINE / 2) / height
            _write((numbers or {})[name], figure, (label / width, line), strip.shape[2] / width, len(rows[name]))
    return finish(canvas, path)


def _write(numbers: Tensor, figure: Figure, place: tuple[float, float], span: float, images: int) -> None:
    """Numbers under the images of a strip, which begins at a place of the figure and is so wide, as shares of it."""
    shown = min(images, COLUMNS)
    for k, number in enumerate(numbers[:shown].tolist()):
        at = place[0] + span * (k + 0.5) / shown
        figure.text(at, place[1], short(number), ha="center", va="center", fontsize=7, color="#222222")


def _strip(images: Tensor, tile: int) -> Tensor:
    """Images (n, C, H, W) as one RGB strip (3, h, w): enlarged by nearest neighbour, side by side with gaps."""
    rgb = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    red = torch.tensor([0.85, 0.1, 0.1]).view(1, 3, 1, 1)
    rgb = torch.where(rgb.isfinite().all(1, keepdim=True), rgb.nan_to_num().clamp(0, 1), red)
    factor = max(1, round(tile / rgb.shape[2]))
    tiles = rgb.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    tiles = torch.nn.functional.pad(tiles, (0, GAP), value=PAPER)
    return tiles.permute(1, 2, 0, 3).flatten(2)[:, :, :-GAP]
