"""The two moons of torchcfm."""

import math
from typing import final

import torch

from flowport.distribution.base import AnalyticDistribution
from flowport.distribution.parameter import positive, precision
from flowport.modality import Plane
from flowport.types import Sample


@final
class Moons(AnalyticDistribution):
    """Two interleaved half circles in the plane, the two moons of torchcfm.

    x = 3 (c + noise · u · (1, 1)) − 1 with u ~ U[0, 1), θ ~ U[0, π), and c = (cos θ, sin θ) on moon 0 and
    (1 − cos θ, ½ − sin θ) on moon 1, each with probability ½. As in torchdyn's ``generate_moons``, which torchcfm calls
    with the noise 0.2, u is uniform and the same for both coordinates, so that each arc is spread along the diagonal.
    Here θ and the moon are drawn independently, where torchdyn takes a regular grid and equal halves.

    Args:
        noise: Width of the uniform noise, before the factor 3.
        continuous_label: Whether the label is the abscissa x₁, (n, 1), the condition of C2OT, instead of the moon.
        dtype: float32 or float64.

    Raises:
        FlowportError: When noise is negative.

    References:
        Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
            arXiv:2302.00482.
        Cheng and Schwing 2025, "The curse of conditions: analyzing and improving optimal transport for conditional
            flow-based generation", arXiv:2503.10636.
    """

    def __init__(
        self, noise: float = 0.2, continuous_label: bool = False, dtype: str | torch.dtype = "float32"
    ) -> None:
        self.noise, self.dtype = positive("noise", noise, or_zero=True), precision(dtype)
        self.continuous_label = continuous_label
        self.classes, self.label_width = (0, 1) if continuous_label else (2, 0)
        self.event_shape, self.modality = (2,), Plane()
        self.offset = torch.tensor([1.0, 0.5], dtype=self.dtype)  # of moon 1

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        u = torch.rand(3, n, generator=generator, device=generator.device, dtype=self.dtype).to(self.device)
        moon, angle = (u[0] < 0.5).long(), math.pi * u[1]
        arc = torch.stack([angle.cos(), angle.sin()], 1)
        other = self.offset - arc
        x = 3 * (torch.where(moon[:, None] == 0, arc, other) + self.noise * u[2][:, None]) - 1
        return Sample(x, x[:, :1].clone() if self.continuous_label else moon)
