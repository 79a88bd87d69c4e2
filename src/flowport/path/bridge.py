"""Bridges: paths that add noise between their ends, so that a score exists for any source."""

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path
from flowport.types import Time


class BrownianBridge(Path):
    """α = 1 − t,  β = t,  γ = noise √(t(1−t)): Brownian motion of volatility ``noise`` pinned at both ends.

    γ̇ diverges at both ends, so the interval is [margin, 1 − margin]. The conditional law given (x0, x1) is that of
    Tong et al. (2023, SB-CFM) and of bridge matching. Raises FlowportError unless noise > 0.
    """

    bridge = True

    def __init__(self, noise: float = 0.6, margin: float = 1e-3) -> None:
        if noise <= 0:
            raise FlowportError(
                f"path=brownian_bridge needs noise > 0, not {noise}: use path=linear for a path without noise"
            )
        if not 0 < margin < 0.5:
            raise FlowportError(f"path.margin={margin} must lie in (0, 0.5): γ vanishes at both ends")
        self.noise = noise
        self.interval = (margin, 1.0 - margin)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def beta(self, t: Tensor) -> Tensor:
        return t

    def gamma(self, t: Tensor) -> Tensor:
        return self.noise * torch.sqrt(t * (1 - t))

    def coefficients(self, t: Time) -> Coefficients:
        gamma, one = self.gamma(t), torch.ones_like(t)  # in closed form: a small network's step is bound by Python
        return Coefficients(1 - t, t, -one, one, gamma, self.noise**2 * (0.5 - t) / gamma)


class SmoothBridge(Path):
    """α = 1 − t,  β = t,  γ = noise t(1−t): γ̇ is bounded, so one field serves ODE and SDE sampling.

    The interval stays [margin, 1 − margin], since the score −E[z | x]/γ needs γ > 0. Raises FlowportError unless
    noise > 0.
    """

    bridge = True

    def __init__(self, noise: float = 1.0, margin: float = 1e-3) -> None:
        if noise <= 0:
            raise FlowportError(
                f"path=smooth_bridge needs noise > 0, not {noise}: use path=linear for a path without noise"
            )
        if not 0 < margin < 0.5:
            raise FlowportError(f"path.margin={margin} must lie in (0, 0.5): γ vanishes at both ends")
        self.noise = noise
        self.interval = (margin, 1.0 - margin)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def beta(self, t: Tensor) -> Tensor:
        return t

    def gamma(self, t: Tensor) -> Tensor:
        return self.noise * t * (1 - t)
