"""Cepstra of log-mel spectrograms, whose low coefficients tell the sound that is spoken from its pitch and level.

References:
    Davis and Mermelstein 1980, "Comparison of parametric representations for monosyllabic word recognition in
        continuously spoken sentences", doi:10.1109/TASSP.1980.1163420.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowport.errors import Checked, Count, FlowportError


class CepstralFeatures(Checked, nn.Module):
    """Weighted cepstra of spectrograms, (n, C, bands, frames) → (n, C · bands · frames).

    The orthonormal discrete cosine transform over the bands of every frame: coefficient 0 is the level, the next
    ``shape`` ones the envelope of the spectrum (which sound it is), the others its fine structure (the pitch).
    Coefficients are multiplied by the root of their weight, so weights of 1 give the squared Euclidean distance of the
    spectrograms.

    Args:
        shape: Number of coefficients of the envelope.
        weights: Weights ≥ 0 of level, envelope and fine structure in a squared distance.

    Raises:
        FlowportError: When there are not three weights, or one is negative.
    """

    def __init__(self, shape: Count = 13, weights: Sequence[float] = (1.0, 3.0, 1.0)) -> None:
        super().__init__()
        if len(weights) != 3 or min(weights) < 0:
            raise FlowportError(
                f"network.weights={list(weights)} must be three numbers of at least 0: of level, envelope and fine "
                "structure"
            )
        self.shape, self.weights = shape, tuple(float(w) for w in weights)

    def forward(self, x: Tensor) -> Tensor:
        """The weighted cepstra of spectrograms.

        Args:
            x: Spectrograms, (n, C, bands, frames).

        Raises:
            FlowportError: When the points are no spectrograms.
        """
        if x.ndim != 4:
            raise FlowportError(f"the cepstral cost is for spectrograms, but a point has shape {tuple(x.shape[1:])}")
        bands = x.shape[2]
        k = torch.arange(bands, device=x.device)
        level, envelope, fine = self.weights
        weight = torch.where(k == 0, level, torch.where(k <= self.shape, envelope, fine)).to(x)
        basis = torch.cos(math.pi / bands * k[:, None] * (k[None] + 0.5)) * math.sqrt(2 / bands)
        basis = torch.where(k[:, None] == 0, basis / math.sqrt(2), basis).to(x)
        return ((weight.sqrt()[:, None] * basis) @ x).flatten(1)
