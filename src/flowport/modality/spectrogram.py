"""Sound as a picture of its spectrum: what all such modalities share, that is waves in, decibels drawn, waves heard."""

from abc import abstractmethod

import matplotlib
import numpy as np
import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.modality.base import Modality, Sound
from flowport.modality.gallery import draw

TILE = 128
"""About how many pixels high a spectrogram is drawn."""


class Spectrogram(Modality):
    """int16 waves (n, T) to points (n, C, bins, frames), a frame every ``hop`` samples.

    rate: samples a second; window: of the Fourier transform, samples; floor_db: what counts as silence, decibels.
    """

    rate: int
    window: int
    hop: int
    floor_db: float

    @abstractmethod
    def decibels(self, x: Tensor) -> Tensor:
        """Points (n, C, bins, frames) to decibels (n, bins, frames), not below the floor; a unit sine has 0 dB."""

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """Points (n, C, bins, frames) to power (n, bins, frames), 1 for a unit sine, not below the floor; in the
        precision of x, differentiable."""

    @abstractmethod
    def hertz(self) -> Tensor:
        """The frequency of every bin, (bins,) float64."""

    def amplitudes(self, raw: Tensor) -> Tensor:
        """int16 waves as float32 in [−1, 1). Raises FlowportError for anything else."""
        if raw.dtype != torch.int16 or raw.ndim != 2:
            name = type(self).__name__
            raise FlowportError(f"modality.{name} takes int16 waves (n, T), but got {raw.dtype} {tuple(raw.shape)}")
        return raw.float() / 32768

    def heard(self, length: Tensor, samples: int) -> Tensor:
        """Which frames of a wave of ``samples`` hold sound that is ``length`` (n,) samples long -> (n, frames) bool.

        Frame k stands for samples k·hop … (k+1)·hop − 1 and holds sound where one of them does.
        """
        begin = torch.arange(samples // self.hop, device=length.device) * self.hop
        return begin < length[:, None]

    def hann(self, device: torch.device) -> Tensor:
        return torch.hann_window(self.window, device=device)

    def render(self, rows: dict[str, Tensor], path: str) -> Tensor:
        """Low notes at the bottom; black: the floor, white: 0 dB."""
        pictures = {name: colours(self.decibels(row.detach().cpu()), self.floor_db) for name, row in rows.items()}
        return draw(pictures, path, TILE)

    def sound(self, x: Tensor) -> Sound:
        return Sound(self.decode(x), self.rate)


def colours(decibels: Tensor, floor_db: float) -> Tensor:
    """(n, bins, frames) to RGB (n, 3, bins, frames), the lowest bin at the bottom; NaN where not finite."""
    magma = torch.from_numpy(matplotlib.colormaps["magma"](np.arange(256))[:, :3]).float()
    share = 1 - decibels / floor_db
    index = (255 * share.clamp(0, 1)).nan_to_num().long()
    shown = magma[index].permute(0, 3, 1, 2)
    return torch.where(share.isfinite()[:, None], shown, torch.nan).flip(2)
