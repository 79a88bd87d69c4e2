"""Time grids for solvers."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Path


class Grid(ABC):
    """steps: K ≥ 1 steps from 0 to 1. Raises FlowportError for fewer."""

    def __init__(self, steps: int = 50) -> None:
        if steps < 1:
            raise FlowportError(f"a time grid needs at least 1 step, not {steps}")
        self.steps = steps

    @abstractmethod
    def times(self, path: Path) -> Tensor:
        """(K+1,) float64, ascending from exactly 0 to exactly 1."""


class UniformGrid(Grid):
    """t_k = k/K."""

    def times(self, path: Path) -> Tensor:
        return torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)


class PowerGrid(Grid):
    """t_k = 1 − (1 − k/K)^power: power > 1 puts more steps near the target, power < 1 near the source."""

    def __init__(self, steps: int = 50, power: float = 1.5) -> None:
        super().__init__(steps)
        if power <= 0:
            raise FlowportError(f"grid=power needs power > 0, not {power}")
        self.power = power

    def times(self, path: Path) -> Tensor:
        return 1 - (1 - torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)) ** self.power


class LogSNRGrid(Grid):
    """Inner times uniform in λ = log(β²/n²), n = γ on a bridge and α otherwise; the ends are 0 and 1.

    λ is inverted on a fine table. Raises FlowportError where the path's λ does not increase (for instance constant α
    and β).
    """

    def __init__(self, steps: int = 50, margin: float = 1e-2) -> None:
        super().__init__(steps)
        if not 0 < margin < 0.5:
            raise FlowportError(f"grid=log_snr needs a margin in (0, 0.5), not {margin}")
        self.margin = margin

    def times(self, path: Path) -> Tensor:
        t = torch.linspace(self.margin, 1 - self.margin, 4001, dtype=torch.float64)
        c = path.coefficients(t)
        snr = 2 * (torch.log(c.beta) - torch.log(c.alpha if c.gamma is None else c.gamma))
        if not bool((snr.diff() > 0).all()):
            raise FlowportError("grid=log_snr needs a path whose signal-to-noise ratio increases: use grid=uniform")
        wanted = torch.linspace(float(snr[0]), float(snr[-1]), self.steps + 1, dtype=torch.float64)
        k = torch.searchsorted(snr, wanted).clamp(1, len(t) - 1)
        share = (wanted - snr[k - 1]) / (snr[k] - snr[k - 1])
        times = t[k - 1] + share * (t[k] - t[k - 1])
        times[0], times[-1] = 0.0, 1.0
        return times
