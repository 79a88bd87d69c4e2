"""The Gaussian distribution N(m, S) on points of any shape."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flowport.distribution.base import Density
from flowport.distribution.covariance import covariance as read_covariance
from flowport.distribution.mixture import GaussianComponents
from flowport.distribution.parameter import Numbers, event, numbers, precision
from flowport.errors import FlowportError
from flowport.modality import Image, Modality, Plane
from flowport.types import EventShape, Sample

MODALITIES: dict[int, type[Modality]] = {3: Image}


@final
class Gaussian(Density):
    """The Gaussian N(m, S) on flattened points of d = prod(event_shape) numbers.

    log p(x) = −½ (x − m)ᵀ S⁻¹ (x − m) − ½ log det S − d/2 log 2π, with the score −S⁻¹ (x − m).
    ``standard_gaussian`` is true exactly where m = 0 and S = I.

    Args:
        event_shape: Shape of a point, or the dimension d.
        mean: One number for all coordinates, or d numbers in any shape.
        covariance: One variance for all coordinates, d variances, or a (d, d) matrix.
        dtype: float32 or float64.
        modality: How points are shown; None for ``Image`` where the shape is (C, H, W) and ``Plane`` otherwise.

    Raises:
        FlowportError: When sizes disagree or S is not symmetric positive definite.
    """

    def __init__(
        self,
        event_shape: int | Sequence[int] = (2,),
        mean: Numbers = 0.0,
        covariance: Numbers = 1.0,
        dtype: str | torch.dtype = "float32",
        modality: Modality | None = None,
    ) -> None:
        self.event_shape: EventShape = event(event_shape)
        self.dtype, d = precision(dtype), math.prod(self.event_shape)
        values = numbers("mean", mean, self.dtype).flatten()
        if values.numel() not in (1, d):
            raise FlowportError(
                f"mean has {values.numel()} numbers; for event_shape {self.event_shape} it must have 1 or {d}"
            )
        self.mean, self.spread = values.expand(d).clone(), read_covariance(covariance, d, self.dtype)
        self.standard_gaussian = bool((self.mean == 0).all()) and self.spread.is_identity()
        self.modality = modality or MODALITIES.get(len(self.event_shape), Plane)()

    @property
    def covariance(self) -> Tensor:
        """S as a dense matrix, (d, d)."""
        return self.spread.matrix()

    @property
    def components(self) -> GaussianComponents:
        """The same Gaussian as a mixture of one component, for closed-form reference solutions."""
        return GaussianComponents.of([1.0], self.mean[None], self.covariance[None], self.dtype)

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        z = torch.randn(n, len(self.mean), generator=generator, device=generator.device, dtype=self.dtype)
        return Sample((self.mean + self.spread.colour(z.to(self.device))).view(n, *self.event_shape))

    def log_prob(self, x: Tensor) -> Tensor:
        gap = x.flatten(1) - self.mean
        squared = (gap * self.spread.apply_precision(gap)).sum(1)
        return -0.5 * (squared + self.spread.logdet() + gap.shape[1] * math.log(2 * math.pi))

    def score(self, x: Tensor) -> Tensor:
        return -self.spread.apply_precision(x.flatten(1) - self.mean).view(x.shape)

    def to(self, device: torch.device | str) -> "Gaussian":
        other = super().to(device)
        assert isinstance(other, Gaussian)
        other.spread = self.spread.to(device)
        return other
