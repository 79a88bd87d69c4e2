"""Spectrograms of sound: the base of modalities whose points are time-frequency representations of waveforms."""

from abc import abstractmethod
from collections.abc import Collection

import matplotlib
import numpy as np
import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.modality.base import Modality, Sound
from flowport.modality.gallery import draw

TILE = 128
"""Approximate height of a drawn spectrogram, pixels."""


class Spectrogram(Modality):
    """A time-frequency representation of int16 waves (n, T), (n, C, bins, frames) with a frame every ``hop`` samples.

    A member provides ``encode``, ``decode``, ``decibels``, ``energy`` and ``hertz`` and sets the attributes. Levels are
    relative to a sine of amplitude 1, whose bin has power 1, that is 0 dB (in a mel band within 2 dB).

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py`` and add
    ``configs/modality/<name>.yaml`` with ``_target_``. Tests belong to tests/modality.

    Attributes:
        rate: Sample rate, Hz.
        window: Length of the Fourier transform, samples.
        hop: Distance of two frames, samples.
        floor_db: Level of silence, dB.
    """

    rate: int
    window: int
    hop: int
    floor_db: float

    @abstractmethod
    def decibels(self, x: Tensor) -> Tensor:
        """The level of points, at least the floor, (n, bins, frames), dB.

        Args:
            x: Points, (n, C, bins, frames).
        """

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """The power of points, at least that of the floor, (n, bins, frames), differentiable and in the dtype of x.

        Args:
            x: Points, (n, C, bins, frames).
        """

    @abstractmethod
    def hertz(self) -> Tensor:
        """The frequency of every bin, (bins,) float64, Hz."""

    def amplitudes(self, raw: Tensor) -> Tensor:
        """Waveforms as float32 in [−1, 1), (n, T).

        Args:
            raw: Waveforms, (n, T) int16.

        Raises:
            FlowportError: When the type or the number of dimensions is another one.
        """
        if raw.dtype != torch.int16 or raw.ndim != 2:
            name = type(self).__name__
            raise FlowportError(f"modality.{name} takes int16 waves (n, T), but got {raw.dtype} {tuple(raw.shape)}")
        return raw.float() / 32768

    def data_frames(self, length: Tensor, samples: int) -> Tensor:
        """Which frames contain data of padded waves, (n, frames) bool.

        Frame k stands for the samples k·hop, …, (k + 1)·hop − 1 and contains data where one of them does.

        Args:
            length: Numbers of samples before the padding, (n,).
            samples: Number T of samples with the padding.
        """
        begin = torch.arange(samples // self.hop, device=length.device) * self.hop
        return begin < length[:, None]

    def hann(self, device: torch.device) -> Tensor:
        """The Hann window, (window,).

        Args:
            device: Device of the window.
        """
        return torch.hann_window(self.window, device=device)

    def render(self, rows: dict[str, Tensor], path: str, unrelated: Collection[str] = ()) -> Tensor:
        """One picture of the levels, (3, H, W) uint8: low frequencies at the bottom, the floor dark, 0 dB bright.

        Args:
            rows: Points (n, C, bins, frames) of every row by its label.
            path: File to write, .png.
            unrelated: Not used.
        """
        pictures = {name: colours(self.decibels(row.detach().cpu()), self.floor_db) for name, row in rows.items()}
        return draw(pictures, path, TILE)

    def sound(self, x: Tensor) -> Sound:
        return Sound(self.decode(x), self.rate)


def colours(decibels: Tensor, floor_db: float) -> Tensor:
    """Levels as RGB images, (n, 3, bins, frames), the lowest bin at the bottom; NaN where not finite.

    Args:
        decibels: Levels, (n, bins, frames), dB.
        floor_db: Level of the darkest colour, below 0 dB, the brightest one.
    """
    magma = torch.from_numpy(matplotlib.colormaps["magma"](np.arange(256))[:, :3]).float()
    share = 1 - decibels / floor_db
    index = (255 * share.clamp(0, 1)).nan_to_num().long()
    shown = magma[index].permute(0, 3, 1, 2)
    return torch.where(share.isfinite()[:, None], shown, torch.nan).flip(2)
