"""Time grids, the discretisations 0 = t_0 < … < t_K = 1 on which solvers integrate a flow."""

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from torch import Tensor

from flowport.errors import Checked, FlowportError, Range
from flowport.path.base import Path


class Grid(Checked, ABC):
    """Time grid of K steps from 0 to 1.

    A member provides ``times``, which must increase strictly from exactly 0 to exactly 1. Backward translation and
    likelihoods use the same times in descending order.

    To add a member: subclass this class in this module, add ``configs/grid/<name>.yaml`` with ``_target_`` and list it
    in ``GRIDS`` of tests/zoo.py, for tests/sampling/test_grid.py.

    Args:
        steps: Number of steps K, at least 1.

    Raises:
        FlowportError: For fewer than 1 step.
    """

    def __init__(self, steps: Annotated[int, Range(most=10**6)] = 50) -> None:
        if steps < 1:
            raise FlowportError(f"a time grid needs at least 1 step, not {steps}")
        self.steps = steps

    @abstractmethod
    def times(self, path: Path) -> Tensor:
        """The times t_0 … t_K, (K+1,) float64.

        Args:
            path: The path of the field, whose coefficients the times may depend on.
        """


class UniformGrid(Grid):
    """Uniform time grid t_k = k/K.

    Args:
        steps: Number of steps K.
    """

    def times(self, path: Path) -> Tensor:
        return torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)


class PowerGrid(Grid):
    """Polynomial time grid t_k = 1 − (1 − k/K)^power.

    On path=variance_exploding, where the noise level is proportional to 1 − t, this is the discretisation of Karras et
    al. with ρ = power and σ_min = 0.

    Args:
        steps: Number of steps K.
        power: Exponent, > 0; above 1 for shorter steps near the target, below 1 for shorter steps near the source.

    Raises:
        FlowportError: Unless power > 0.

    References:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", arXiv:2206.00364,
        Equation 5.
    """

    def __init__(self, steps: Annotated[int, Range(most=10**6)] = 50, power: float = 1.5) -> None:
        super().__init__(steps)
        if power <= 0:
            raise FlowportError(f"grid=power needs power > 0, not {power}")
        self.power = power

    def times(self, path: Path) -> Tensor:
        return 1 - (1 - torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)) ** self.power


class LogSNRGrid(Grid):
    """Time grid that is uniform in the log signal-to-noise ratio λ = log(β²/n²).

    n is the weight of the noise, γ on a bridge and α otherwise. The inner times are uniform in λ between t = margin and
    t = 1 − margin; t_0 and t_K are then set to 0 and 1. λ is inverted by linear interpolation in a table.

    Args:
        steps: Number of steps K.
        margin: Distance from 0 and 1 beyond which λ is not evaluated, in (0, 0.5).

    Raises:
        FlowportError: For a margin outside (0, 0.5).

    References:
        Lu et al. 2022, "DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in around 10 steps",
        arXiv:2206.00927.
    """

    def __init__(self, steps: Annotated[int, Range(most=10**6)] = 50, margin: float = 1e-2) -> None:
        super().__init__(steps)
        if not 0 < margin < 0.5:
            raise FlowportError(f"grid=log_snr needs a margin in (0, 0.5), not {margin}")
        self.margin = margin

    def times(self, path: Path) -> Tensor:
        """The times t_0 … t_K, (K+1,) float64.

        Args:
            path: The path of the field, which determines λ.

        Raises:
            FlowportError: For a path whose λ does not increase, for instance constant α and β.
        """
        t = torch.linspace(self.margin, 1 - self.margin, 4001, dtype=torch.float64)
        c = path.coefficients(t)
        snr = 2 * (torch.log(c.beta) - torch.log(c.alpha if c.gamma is None else c.gamma))
        if not bool((snr.diff() > 0).all()):
            raise FlowportError("grid=log_snr needs a path whose signal-to-noise ratio increases: use grid=uniform")
        levels = torch.linspace(float(snr[0]), float(snr[-1]), self.steps + 1, dtype=torch.float64)
        k = torch.searchsorted(snr, levels).clamp(1, len(t) - 1)
        share = (levels - snr[k - 1]) / (snr[k] - snr[k - 1])
        times = t[k - 1] + share * (t[k] - t[k - 1])
        times[0], times[-1] = 0.0, 1.0
        return times
