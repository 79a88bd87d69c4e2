"""Rows of images as one picture: whole pixels, a label at the left of each row."""

import torch
from torch import Tensor

from flowport.modality.picture import blank, finish, presentable

TILE, GAP, MARGIN, COLUMNS, PAPER, CHARACTER = 56, 4, 10, 16, 1.0, 7.6


def draw(rows: dict[str, Tensor], path: str, tile: int = TILE) -> Tensor:
    """rows: name -> (n, C, H, W) in [0, 1] (clamped; not finite: red); C ≥ 3: RGB, else the first channel in grey.

    Every image is enlarged by a whole factor to about ``tile`` pixels of height; at most 16 a row are drawn.
    Returns (3, H, W) uint8.
    """
    strips = {name: _strip(row[:COLUMNS], tile) for name, row in presentable(rows).items()}
    label = int(CHARACTER * max(len(name) for name in strips)) + 2 * MARGIN
    width = label + max(strip.shape[2] for strip in strips.values()) + MARGIN
    height = sum(strip.shape[1] + GAP for strip in strips.values()) - GAP + 2 * MARGIN
    page, top, middles = torch.full((3, height, width), PAPER), MARGIN, []
    for strip in strips.values():
        page[:, top : top + strip.shape[1], label : label + strip.shape[2]] = strip
        middles.append(1 - (top + strip.shape[1] / 2) / height)
        top += strip.shape[1] + GAP
    figure, canvas = blank(width, height)
    figure.figimage(page.permute(1, 2, 0).numpy(), origin="upper")
    for name, middle in zip(strips, middles, strict=True):
        figure.text((label - MARGIN) / width, middle, name, ha="right", va="center", fontsize=9, color="#222222")
    return finish(canvas, path)


def _strip(images: Tensor, tile: int) -> Tensor:
    """(n, C, H, W) to (3, h, w): RGB, enlarged by nearest neighbour, side by side with gaps."""
    rgb = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    red = torch.tensor([0.85, 0.1, 0.1]).view(1, 3, 1, 1)
    rgb = torch.where(rgb.isfinite().all(1, keepdim=True), rgb.nan_to_num().clamp(0, 1), red)
    factor = max(1, round(tile / rgb.shape[2]))
    tiles = rgb.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    tiles = torch.nn.functional.pad(tiles, (0, GAP), value=PAPER)
    return tiles.permute(1, 2, 0, 3).flatten(2)[:, :, :-GAP]
