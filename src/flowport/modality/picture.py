"""Pictures as tensors: matplotlib figures drawn without a display, written as png and returned as (3, H, W)."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from flowport.cache import write_atomically
from flowport.errors import FlowportError

DPI = 100


def blank(width: int, height: int) -> tuple[Figure, FigureCanvasAgg]:
    """A white figure and its canvas, without global matplotlib state.

    Args:
        width: Width, pixels.
        height: Height, pixels.
    """
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    return figure, FigureCanvasAgg(figure)


def finish(canvas: FigureCanvasAgg, path: str) -> Tensor:
    """The drawn picture, (3, H, W) uint8, which is also written to a file.

    Args:
        canvas: Canvas of the figure.
        path: File to write, .png; missing folders are created.
    """
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    write_atomically(Path(path), lambda place: Image.fromarray(pixels).save(place, "png"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def presentable(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rows detached, on the CPU and in float32.

    Args:
        rows: Points (n, *D) of every row by its label.

    Raises:
        FlowportError: When there is no row or a row has no point.
    """
    if not rows or any(len(row) == 0 for row in rows.values()):
        raise FlowportError(f"a picture needs at least one row with at least one point, but the rows are {list(rows)}")
    return {name: row.detach().cpu().float() for name, row in rows.items()}


def short(number: float) -> str:
    """A number as it is written under a picture: three significant digits.

    Args:
        number: The number.
    """
    return f"{number:.3g}"


def read_picture(path: Path) -> Tensor:
    """A picture that ``finish`` wrote, (3, H, W) uint8.

    Args:
        path: The file, .png.
    """
    with Image.open(path) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)
