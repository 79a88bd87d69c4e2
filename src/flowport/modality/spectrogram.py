"""Spectrograms of sound: the base of modalities whose points are time-frequency representations of waveforms."""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from math import log2
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.modality.base import Modality, Sound
from flowport.modality.gallery import draw

TILE = 128
"""Approximate height of a drawn spectrogram, pixels."""

LOUDEST = 0.98
"""Largest amplitude of a whole recording."""


class Spectrogram(Modality):
    """A time-frequency representation of int16 waves (n, T), (n, C, bins, frames) with a frame every ``hop`` samples.

    A member provides ``encode``, ``waves``, ``decibels``, ``energy`` and ``hertz`` and sets the attributes. Levels are
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

    def meaning(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("rate", "window", "hop", "floor_db")}

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

    @abstractmethod
    def waves(self, x: Tensor) -> Tensor:
        """Waveforms of points, (n, frames · hop) float32, whose amplitude may exceed 1.

        Args:
            x: Points, (n, C, bins, frames) of any number of frames.
        """

    def decode(self, x: Tensor) -> Tensor:
        """Waveforms of points, (n, frames · hop) int16, clamped; see ``waves``.

        Args:
            x: Points, (n, C, bins, frames).
        """
        return (32768 * self.waves(x)).round().clamp(-32768, 32767).to(torch.int16)

    def recording(self, x: Tensor) -> Tensor:
        """Whole recordings of points, (n, frames · hop) int16, scaled down as a whole where a peak exceeds full scale.

        Args:
            x: Points, (n, C, bins, frames) of any number of frames.
        """
        wave = self.waves(x)
        peak = wave.abs().amax(1, keepdim=True)
        return (32767 * wave * (LOUDEST / peak).clamp_max(1)).round().to(torch.int16)

    def cut(self, wave: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Pieces of a recording that overlap by half, (k, samples) int16, and their numbers of samples of sound, (k,).

        Pieces begin at multiples of ``hop``; the last one is filled up with silence.

        Args:
            wave: The recording, (T,) int16.
            samples: Length of a piece, a multiple of ``hop``.
        """
        step = self.step(samples // self.hop) * self.hop
        count = 1 + max(0, -(-(len(wave) - samples) // step))
        padded = torch.nn.functional.pad(wave, (0, (count - 1) * step + samples - len(wave)))
        lengths = len(wave) - step * torch.arange(count, device=wave.device)
        return padded.unfold(0, samples, step), lengths.clamp_max(samples)

    def step(self, frames: int) -> int:
        """Distance of the beginnings of two pieces of ``cut``, frames.

        Args:
            frames: Number of frames of a piece.
        """
        return max(1, frames // 2)

    def joined(self, x: Tensor) -> Tensor:
        """Points of the pieces of one recording as one point of all its frames, (1, C, bins, frames of all).

        Where pieces overlap, their points are averaged with the weights sin²(π (k + ½)/F) of frame k of F, so that one
        waveform is decoded and no seam is heard.

        Args:
            x: Points of the pieces, (k, C, bins, F), in their order.
        """
        count, frames = len(x), x.shape[3]
        step = self.step(frames)
        weight = torch.sin(torch.pi * (torch.arange(frames, device=x.device) + 0.5) / frames).square()
        whole = torch.zeros(*x.shape[1:3], (count - 1) * step + frames, device=x.device)
        total = torch.zeros(whole.shape[2], device=x.device)
        for k in range(count):
            whole[..., k * step : k * step + frames] += weight * x[k]
            total[k * step : k * step + frames] += weight
        return (whole / total)[None]

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
        return draw(self._drawn(rows), path, TILE)

    def sheet(self, rows: dict[str, Tensor], numbers: Mapping[str, Tensor], path: str) -> Tensor:
        return draw(self._drawn(rows), path, TILE, numbers)

    def _drawn(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: colours(self.decibels(row.detach().cpu()), self.floor_db) for name, row in rows.items()}

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


def window_of(rate: int, seconds: float) -> int:
    """The power of two of samples that is nearest to a duration, at least 64.

    Args:
        rate: Sample rate, Hz.
        seconds: The duration.
    """
    return 2 ** max(6, round(log2(seconds * rate)))
