"""The linear path of flow matching and rectified flow.

References:
    Lipman et al. 2022, "Flow Matching for Generative Modeling", arXiv:2210.02747.
    Liu, Gong and Liu 2022, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        arXiv:2209.03003.
    Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
        arXiv:2302.00482.
"""

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.path.base import Coefficients, Path, PathSample
from flowport.tensors import over
from flowport.types import Pair, Points, Time


class LinearPath(Path):
    """Linear path α = 1 − (1 − sigma_min) t, β = t, γ = noise (constant).

    Both options at 0 give rectified flow, ẋ_t = x1 − x0. With noise > 0 it is the conditional flow matching of Tong et
    al., with blurred ends p0 * N(0, noise²) and p1 * N(0, noise²). With sigma_min > 0 it is the path of Lipman et al.,
    which ends in x1 + sigma_min x0.

    Args:
        noise: Constant γ ≥ 0, in units of the points.
        sigma_min: Weight of the source at t = 1, in [0, 1).

    Raises:
        FlowportError: When ``noise`` or ``sigma_min`` is out of its range.
    """

    def __init__(self, noise: float = 0.0, sigma_min: float = 0.0) -> None:
        if noise < 0 or not 0 <= sigma_min < 1:
            raise FlowportError(
                f"path=linear needs noise ≥ 0 and 0 ≤ sigma_min < 1, not noise={noise}, sigma_min={sigma_min}"
            )
        self.noise, self.sigma_min = noise, sigma_min
        self.bridge = noise > 0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.sigma_min) * t

    def beta(self, t: Tensor) -> Tensor:
        return t

    def gamma(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.noise)

    def coefficients(self, t: Time) -> Coefficients:
        noise = (self.gamma(t), torch.zeros_like(t)) if self.bridge else (None, None)
        slope = torch.full_like(t, self.sigma_min - 1)
        return Coefficients(self.alpha(t), t, slope, torch.ones_like(t), *noise)

    def sample(self, pair: Pair, t: Time, z: Points | None) -> PathSample:
        x0, x1 = pair.source.x, pair.target.x
        if self.bridge or self.sigma_min or not x0.dtype == x1.dtype == t.dtype:
            return super().sample(pair, t, z)
        # The straight line in two operations: for points of two dimensions this saves a twentieth of a training step.
        return PathSample(t, torch.lerp(x0, x1, over(t, x0)), x1 - x0, x0, x1, z)
