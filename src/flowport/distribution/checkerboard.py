"""The checkerboard distribution in the plane."""

import math
from typing import final

import torch
from torch import Tensor

from flowport.distribution.base import AnalyticDistribution
from flowport.distribution.parameter import positive, precision
from flowport.errors import FlowportError
from flowport.modality import Plane
from flowport.types import Sample


@final
class Checkerboard(AnalyticDistribution):
    """The uniform distribution on every other square of a checkerboard over [−extent, extent]².

    The board has cells × cells squares (i, j), of which those with i + j even have the density p(x) = 1 / (K w²), where
    K is their number and w = 2 extent / cells their side; p(x) = 0 elsewhere. The label numbers these squares, column
    by column from the left. The defaults give the checkerboard of FFJORD.

    Args:
        cells: Squares along each side.
        extent: Half the side of the board.
        dtype: float32 or float64.

    Raises:
        FlowportError: When there are fewer than two cells or extent is not positive.

    References:
        Grathwohl et al. 2018, "FFJORD: Free-form continuous dynamics for scalable reversible generative models",
            arXiv:1810.01367.
    """

    def __init__(self, cells: int = 4, extent: float = 4.0, dtype: str | torch.dtype = "float32") -> None:
        if cells < 2:
            raise FlowportError(f"cells is {cells}; a checkerboard needs at least 2 a side")
        self.cells, self.extent, self.dtype = cells, positive("extent", extent), precision(dtype)
        i, j = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
        self.squares = torch.stack([i, j], -1)[(i + j) % 2 == 0]
        self.width = 2 * extent / cells
        self.classes, self.event_shape, self.modality = len(self.squares), (2,), Plane()

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        place = generator.device
        label = torch.randint(self.classes, (n,), generator=generator, device=place)
        inside = torch.rand(n, 2, generator=generator, device=place, dtype=self.dtype)
        x = (self.squares.to(place)[label] + inside) * self.width - self.extent
        return Sample(x.to(self.device), label.to(self.device))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (n,): −log(K w²) on the K squares of side w, −∞ elsewhere.

        Args:
            x: Points, (n, 2).
        """
        cell = ((x + self.extent) / self.width).floor()
        on_board = ((cell >= 0) & (cell < self.cells)).all(1) & (cell.sum(1) % 2 == 0)
        level = -math.log(self.classes * self.width**2)
        return torch.where(on_board, level, -math.inf).to(x.dtype)
