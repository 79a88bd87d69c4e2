"""Complex short-time Fourier transforms of sound, which are invertible and include the phase.

References:
    Welker, Richter and Gerkmann 2022, "Speech Enhancement with Score-Based Generative Models in the Complex STFT
        Domain", arXiv:2203.17004 (compression of the magnitude).
    Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform",
        doi:10.1109/TASSP.1984.1164317 (least-squares inverse).
"""

from math import hypot
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.errors import FlowportError, Positive
from flowport.modality.spectrogram import Spectrogram, window_of


class ComplexSTFT(Spectrogram):
    """Complex short-time Fourier transform S with compressed magnitude, x = (Re, Im) of |S|^power e^{i arg S}/scale.

    Raw items are int16 waves (n, T), points are (n, 2, window/2, T/hop) float32. S is taken under a Hann window and
    scaled so that a sine of amplitude A has |S| = A at its bin. Frame k is centred on sample (k + ½) hop of the wave,
    which is padded by zeros, so that T/hop frames cover every sample. The two real bins, 0 Hz and rate/2, are the real
    and the imaginary part of row 0, each compressed by itself, so that window/2 bins hold the whole spectrum.

    decode is the least-squares inverse: decode(encode(raw, None)) = raw exactly for power ≥ 0.3. Points that are not
    the transform of a wave give the wave whose transform is nearest to S in the least-squares sense.

    Args:
        rate: Sample rate, Hz; None for that of the files where a run is built, else 8000.
        window: Length of the Hann window and of the Fourier transform, samples; even. None for the power of two nearest
            to ``seconds``.
        hop: Distance of two frames, samples; even. None for a quarter of the window.
        power: Exponent of the magnitude, in (0, 1]; 1 for no compression.
        scale: Divisor of the compressed spectrum; 0.025 gives synthetic notes coordinates of mean square about 1. None
            for the root mean square of the training data, measured when a run is built (until then 1).
        floor_db: Smallest level in pictures, dB.
        seconds: Duration of a window whose length is not given, s.

    Raises:
        FlowportError: When the settings have no inverse.
    """

    def __init__(
        self,
        rate: int | None = 8000,
        window: int | None = 512,
        hop: int | None = 128,
        power: float = 0.5,
        scale: float | None = 0.025,
        floor_db: float = -70.0,
        seconds: Positive = 0.064,
    ) -> None:
        rate = 8000 if rate is None else rate
        window = window_of(rate, seconds) if window is None else window
        hop = window // 4 if hop is None else hop
        if window % 2 or not 0 < hop <= window // 2 or hop % 2:
            raise FlowportError(
                f"modality needs an even window and an even hop, 0 < hop ≤ window/2, not window={window}, hop={hop}"
            )
        if not 0 < power <= 1 or (scale is not None and scale <= 0) or floor_db >= 0:
            raise FlowportError(
                f"modality needs 0 < power ≤ 1, scale > 0 and floor_db < 0, not power={power}, "
                f"scale={scale}, floor_db={floor_db}"
            )
        self.rate, self.window, self.hop, self.seconds = rate, window, hop, seconds
        self.power, self.floor_db, self._measure = power, floor_db, scale is None
        self.scale = 1.0 if scale is None else scale
        self.margin = (window - hop) // 2  # silence before the wave and after it

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        """The compressed transform, (n, 2, window/2, T/hop) float32.

        Args:
            raw: Waveforms, (n, T) int16.
            generator: Not used: waves are not augmented.

        Raises:
            FlowportError: When the raw items are no such waves or hop does not divide T.
        """
        wave = self.amplitudes(raw)
        if raw.shape[1] % self.hop or raw.shape[1] == 0:
            raise FlowportError(
                f"a wave of {raw.shape[1]} samples cannot be cut into frames: its length must be a multiple "
                f"of modality.hop={self.hop}"
            )
        frames = F.pad(wave, (self.margin, self.margin)).unfold(1, self.window, self.hop)
        z = to_power(torch.fft.rfft(frames * self.hann(raw.device)).mT * (4 / self.window), self.power)
        imaginary = torch.cat([z.real[:, -1:], z.imag[:, 1:-1]], 1)
        return torch.stack([z.real[:, :-1], imaginary], 1) / self.scale

    def meaning(self) -> dict[str, Any]:
        return super().meaning() | {"power": self.power}

    def unmeasured(self) -> tuple[str, ...]:
        return ("scale",) if self._measure else ()

    def measured_values(self, mean: float, std: float) -> dict[str, float]:
        return {"scale": self.scale * hypot(mean, std)} if self._measure else {}

    def spectrum(self, x: Tensor) -> Tensor:
        """The transform S without compression, (n, window/2 + 1, frames) complex; a sine of amplitude 1 has |S| = 1.

        Args:
            x: Points, (n, 2, window/2, frames).
        """
        re, im = (x * self.scale).unbind(1)
        zero = torch.zeros_like(im[:, :1])
        z = torch.complex(torch.cat([re, im[:, :1]], 1), torch.cat([zero, im[:, 1:], zero], 1))
        return to_power(z, 1 / self.power)

    def waves(self, x: Tensor) -> Tensor:
        """The waveforms of least squares, (n, frames · hop) float32: Σ w y/Σ w² over the frames y of window w.

        Args:
            x: Points, (n, 2, window/2, frames).
        """
        frames = torch.fft.irfft(self.spectrum(x.float()).mT * (self.window / 4), self.window)
        hann, samples = self.hann(x.device), x.shape[3] * self.hop
        wave = self._added(frames * hann) / self._added(hann.square().expand(1, *frames.shape[1:]))
        return wave[:, self.margin : self.margin + samples]

    def _added(self, frames: Tensor) -> Tensor:
        """The overlap-add of frames (n, frames, window) every hop samples, (n, margin + T + margin)."""
        length = (frames.shape[1] - 1) * self.hop + self.window
        return F.fold(frames.mT, (1, length), (1, self.window), stride=(1, self.hop))[:, 0, 0]

    def decibels(self, x: Tensor) -> Tensor:
        return 10 * self.energy(x.float()).log10()

    def energy(self, x: Tensor) -> Tensor:
        power = self.spectrum(x).abs().square()[:, :-1]
        return power.clamp_min(10 ** (self.floor_db / 10))

    def hertz(self) -> Tensor:
        return torch.arange(self.window // 2, dtype=torch.float64) * self.rate / self.window


def to_power(z: Tensor, power: float) -> Tensor:
    """Complex numbers with a power of their magnitude, |z|^power e^{i arg z}.

    Args:
        z: Complex numbers.
        power: Exponent of the magnitude.
    """
    return z * z.abs().clamp_min(1e-12) ** (power - 1)
