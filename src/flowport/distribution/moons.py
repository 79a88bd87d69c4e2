"""Two moons, as torchcfm draws them."""

import math
from typing import final

import torch

from flowport.distribution.base import AnalyticDistribution
from flowport.distribution.parameter import positive, precision
from flowport.modality import Plane
from flowport.types import Sample


@final
class Moons(AnalyticDistribution):
    """x = 3 (c + noise · u · (1, 1)) − 1, u ~ U[0, 1), θ ~ U[0, π], c = (cos θ, sin θ) on moon 0 and
    (1 − cos θ, ½ − sin θ) on moon 1, each moon with probability ½.

    The noise of torchdyn's generate_moons, which torchcfm's sample_moons calls with 0.2, is *uniform* and *one number
    for both coordinates*: it smears each arc along the diagonal. Here θ and the moon are drawn independently, where
    torchdyn takes a regular grid and equal halves. Label: the moon, or with ``continuous_label`` the abscissa x₁,
    (n, 1), the condition of C2OT (Cheng & Schwing, ICCV 2025). Raises FlowportError for negative noise.
    """

    def __init__(
        self, noise: float = 0.2, continuous_label: bool = False, dtype: str | torch.dtype = "float32"
    ) -> None:
        self.noise, self.dtype = positive("noise", noise, or_zero=True), precision(dtype)
        self.continuous_label = continuous_label
        self.classes, self.label_width = (0, 1) if continuous_label else (2, 0)
        self.event_shape, self.modality = (2,), Plane()

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        u = torch.rand(3, n, generator=generator, device=generator.device, dtype=self.dtype).to(self.device)
        moon, angle = (u[0] < 0.5).long(), math.pi * u[1]
        arc = torch.stack([angle.cos(), angle.sin()], 1)
        other = torch.tensor([1.0, 0.5], dtype=self.dtype, device=self.device) - arc
        x = 3 * (torch.where(moon[:, None] == 0, arc, other) + self.noise * u[2][:, None]) - 1
        return Sample(x, x[:, :1].clone() if self.continuous_label else moon)
