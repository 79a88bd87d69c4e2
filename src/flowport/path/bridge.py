"""Bridges: paths with noise between their ends, which have a score for any source.

References:
    Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        arXiv:2303.08797.
    Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
        arXiv:2302.00482.
    Shi et al. 2023, "Diffusion Schrödinger Bridge Matching", arXiv:2303.16852.
"""

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path
from flowport.types import Time


class BrownianBridge(Path):
    """Brownian bridge α = 1 − t, β = t, γ = noise √(t(1−t)): Brownian motion pinned at both ends.

    ``noise`` is the volatility σ of the Brownian motion. The conditional law given (x0, x1) is that of SB-CFM and of
    bridge matching. γ̇ = noise² (½ − t)/γ diverges at both ends, so the interval is [margin, 1 − margin].

    Args:
        noise: σ > 0, in units of the points.
        margin: Distance of the interval from both ends, in (0, 0.5).

    Raises:
        FlowportError: When ``noise`` or ``margin`` is out of its range.
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
        gamma, one = self.gamma(t), torch.ones_like(t)  # closed form: faster than autograd
        return Coefficients(1 - t, t, -one, one, gamma, self.noise**2 * (0.5 - t) / gamma)


class SmoothBridge(Path):
    """Smooth bridge α = 1 − t, β = t, γ = noise t(1−t), whose γ̇ is bounded.

    The velocity stays bounded at both ends, which suits ODE and SDE sampling alike. The interval is nevertheless
    [margin, 1 − margin], since the score −E[z | x]/γ needs γ > 0.

    Args:
        noise: Scale of γ, > 0, in units of the points; γ(½) = noise/4.
        margin: Distance of the interval from both ends, in (0, 0.5).

    Raises:
        FlowportError: When ``noise`` or ``margin`` is out of its range.
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
