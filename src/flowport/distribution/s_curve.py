"""The S-shaped curve in the plane."""

import math
from typing import final

import torch

from flowport.distribution.base import AnalyticDistribution
from flowport.distribution.parameter import positive, precision
from flowport.modality import Plane
from flowport.types import Sample


@final
class SCurve(AnalyticDistribution):
    """The S curve with Gaussian noise, scikit-learn's ``make_s_curve`` without its uniform second coordinate.

    x = scale · (sin τ, sign(τ) (cos τ − 1)) + noise · z with τ = 3π (u − ½), u ~ U[0, 1) and z ~ N(0, I). The label is
    the half of the curve, 0 for τ < 0 and 1 otherwise.

    Args:
        noise: Standard deviation of the noise in each coordinate, after the scaling.
        scale: Factor of the curve.
        continuous_label: Whether the label is the position τ along the curve, (n, 1), instead of the half.
        dtype: float32 or float64.

    Raises:
        FlowportError: When noise is negative or scale is not positive.
    """

    def __init__(
        self,
        noise: float = 0.05,
        scale: float = 1.0,
        continuous_label: bool = False,
        dtype: str | torch.dtype = "float32",
    ) -> None:
        self.noise, self.scale = positive("noise", noise, or_zero=True), positive("scale", scale)
        self.dtype, self.continuous_label = precision(dtype), continuous_label
        self.classes, self.label_width = (0, 1) if continuous_label else (2, 0)
        self.event_shape, self.modality = (2,), Plane()

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        place = generator.device
        tau = 3 * math.pi * (torch.rand(n, generator=generator, device=place, dtype=self.dtype) - 0.5)
        z = torch.randn(n, 2, generator=generator, device=place, dtype=self.dtype)
        x = self.scale * torch.stack([tau.sin(), tau.sign() * (tau.cos() - 1)], 1) + self.noise * z
        label = tau[:, None] if self.continuous_label else (tau >= 0).long()
        return Sample(x.to(self.device), label.to(self.device))
