"""Log-mel spectrograms of sound, inverted by non-negative least squares and Griffin–Lim phase retrieval.

References:
    Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform",
        doi:10.1109/TASSP.1984.1164317.
    Perraudin, Balazs and Søndergaard 2013, "A fast Griffin-Lim algorithm", doi:10.1109/WASPAA.2013.6701851.
    Lee and Seung 2001, "Algorithms for Non-negative Matrix Factorization", Advances in Neural Information Processing
        Systems 13 (multiplicative updates for the squared error).
"""

from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.errors import Count, FlowportError, Positive, Range
from flowport.modality.spectrogram import Spectrogram, window_of

TINY = 1e-12
AUDIBLE, MOST_GAIN = 20.0, 4.0
"""Level above the floor, dB, from which on power is compared, and largest factor of the power of a decoded wave."""
INVERSIONS, ROUNDS, MOMENTUM = 60, 40, 0.7
"""Numbers of steps of the mel inversion and of Griffin–Lim, and the acceleration parameter of Griffin–Lim."""


def mel(hertz: Tensor) -> Tensor:
    """The mel scale by O'Shaughnessy's formula (as in HTK): 2595 log₁₀(1 + f/700).

    Args:
        hertz: Frequencies f, Hz.
    """
    return 2595 * (1 + hertz / 700).log10()


def mel_corners(bands: int, low: float, high: float) -> Tensor:
    """Corner frequencies of the triangular mel filters, (bands + 2,) float64, Hz, equally spaced on the mel scale.

    Filter k rises from corner k, is 1 at corner k + 1 and falls to corner k + 2.

    Args:
        bands: Number of filters.
        low: First corner, Hz.
        high: Last corner, Hz.
    """
    ends = mel(torch.tensor([low, high], dtype=torch.float64))
    corners = torch.linspace(float(ends[0]), float(ends[1]), bands + 2, dtype=torch.float64)
    return 700 * (10 ** (corners / 2595) - 1)


def mel_filters(bands: int, bins: int, rate: int, low: float, high: float) -> Tensor:
    """Triangular mel filters of peak 1, (bands, bins) float64.

    Args:
        bands: Number of filters.
        bins: Number of frequency bins, equally spaced from 0 to rate/2.
        rate: Sample rate, Hz.
        low: Frequency from which the first filter rises, Hz.
        high: Frequency to which the last filter falls, Hz.
    """
    hertz = mel_corners(bands, low, high)
    at = torch.linspace(0, rate / 2, bins, dtype=torch.float64)
    rising = (at - hertz[:-2, None]) / (hertz[1:-1] - hertz[:-2])[:, None]
    falling = (hertz[2:, None] - at) / (hertz[2:] - hertz[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0)


class LogMel(Spectrogram):
    """Normalised log-mel spectrogram, x = (10 log₁₀ max(mel power, floor) − mean)/std, (n, 1, bands, T/hop) float32.

    Raw items are int16 waves (n, T). The power is that of the short-time Fourier transform under a Hann window, scaled
    so that the bin of a sine of amplitude 1 has 0 dB, and summed by triangular filters of peak 1. mean and
    std are single numbers, so that differences in loudness are preserved. ``waves`` estimates a non-negative spectrum
    and a phase: pitch and timbre are recovered, the phase is not. ``options`` holds the arguments, so that
    LogMel(*options) is equal.

    Args:
        rate: Sample rate, Hz; None for that of the files where a run is built, else 8000.
        window: Length of the Hann window and of the Fourier transform, samples; None for the power of two nearest to
            ``seconds``.
        hop: Distance of two frames, samples; None for a quarter of the window.
        bands: Number of mel filters.
        low: Lower end of the first filter, Hz.
        high: Upper end of the last filter, Hz; None for half of the rate.
        floor_db: Smallest level, dB.
        mean: Level that becomes x = 0, dB; None for the mean of the training data, measured when a run is built (until
            then 0).
        std: Unit of x, dB; None for the standard deviation of the training data, measured when a run is built (until
            then 1).
        seconds: Duration of a window whose length is not given, s.

    Raises:
        FlowportError: When the settings are out of range or a filter contains no frequency bin.
    """

    def __init__(
        self,
        rate: Count | None = 8000,
        window: int | None = 1024,
        hop: int | None = 256,
        bands: Count = 64,
        low: float = 60.0,
        high: float | None = 4000.0,
        floor_db: Annotated[float, Range(most=0)] = -70.0,
        mean: float | None = -61.0,
        std: float | None = 15.1,
        seconds: Positive = 0.128,
    ) -> None:
        rate = 8000 if rate is None else rate
        window = window_of(rate, seconds) if window is None else window
        hop, high = window // 4 if hop is None else hop, rate / 2 if high is None else high
        if not 0 <= low < high <= rate / 2:
            raise FlowportError(
                f"modality.low={low} and modality.high={high} must lie in order between 0 and {rate / 2} Hz"
            )
        if not 0 < hop <= window // 2 or (std is not None and std <= 0):
            raise FlowportError(
                f"modality needs 0 < hop ≤ window/2 and std > 0, not hop={hop}, window={window}, std={std}"
            )
        self.options, self.seconds = (rate, window, hop, bands, low, high, floor_db, mean, std), seconds
        self.rate, self.window, self.hop, self.bands = rate, window, hop, bands
        self.low, self.high = low, high
        self.floor_db, self._given = floor_db, {"mean": mean, "std": std}
        self.mean, self.std = 0.0 if mean is None else mean, 1.0 if std is None else std
        self.filters = mel_filters(bands, window // 2 + 1, rate, low, high).float()
        empty = (self.filters.sum(1) == 0).nonzero()
        if len(empty):
            raise FlowportError(
                f"mel band {int(empty[0])} of {bands} lies between two bins of a window of {window}: use fewer "
                "modality.bands or a longer modality.window"
            )
        self.gain = (4 / window) ** 2  # |Fourier transform| of a unit sine is Σ window / 2 = window / 4

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.normalised(self.power(self.amplitudes(raw)))

    def meaning(self) -> dict[str, Any]:
        return super().meaning() | {name: getattr(self, name) for name in ("bands", "low", "high")}

    def unmeasured(self) -> tuple[str, ...]:
        return tuple(name for name, value in self._given.items() if value is None)

    def measured_values(self, mean: float, std: float) -> dict[str, float]:
        found = {"mean": self.mean + self.std * mean, "std": self.std * std}
        return {name: found[name] for name in self.unmeasured()}

    def normalised(self, power: Tensor) -> Tensor:
        """The points of mel powers, (n, 1, bands, frames).

        Args:
            power: Mel power, (n, bands, frames), about 1 for a sine of amplitude 1.
        """
        decibels = 10 * power.clamp_min(10 ** (self.floor_db / 10)).log10()
        return ((decibels - self.mean) / self.std)[:, None]

    def decibels(self, x: Tensor) -> Tensor:
        """The level of points, x · std + mean but at least the floor, (n, bands, frames), dB.

        Args:
            x: Points, (n, 1, bands, frames).
        """
        return (x[:, 0].float() * self.std + self.mean).clamp_min(self.floor_db)

    def energy(self, x: Tensor) -> Tensor:
        return 10 ** ((x[:, 0] * self.std + self.mean).clamp_min(self.floor_db) / 10)

    def hertz(self) -> Tensor:
        """The frequencies of the peaks of the mel filters, (bands,) float64, Hz."""
        return mel_corners(self.bands, self.low, self.high)[1:-1]

    def spectrum(self, wave: Tensor) -> Tensor:
        """The short-time Fourier transform under a Hann window, (n, window/2 + 1, T/hop + 1) complex.

        Args:
            wave: Waveforms, (n, T) float.
        """
        return torch.stft(wave, self.window, self.hop, window=self.hann(wave.device), return_complex=True)

    def waves(self, x: Tensor) -> Tensor:
        """Waveforms with nearly the spectrogram of the points, (n, frames · hop) float32, by Griffin–Lim.

        Every waveform is multiplied by a constant so that its mel power is that of its points, because waves whose
        spectra do not fit together lose power, about 1 dB of speech.

        Args:
            x: Points, (n, 1, bands, frames).
        """
        wave = self.griffin_lim(self.linear(x).sqrt(), x.shape[3] * self.hop)
        audible = self.decibels(x) > self.floor_db + AUDIBLE
        wanted = (self.energy(x) * audible).sum((1, 2))
        found = (self.power(wave) * audible).sum((1, 2))
        gain = torch.where(found > TINY * wanted.clamp_min(1), wanted / found.clamp_min(TINY), torch.ones_like(found))
        return wave * gain.clamp(0, MOST_GAIN).sqrt()[:, None]

    def power(self, wave: Tensor) -> Tensor:
        """Mel power, (n, bands, T/hop), about 1 for a sine of amplitude 1.

        Args:
            wave: Waveforms, (n, T) float.
        """
        power = self.spectrum(wave).abs().square()[:, :, : wave.shape[1] // self.hop]
        return self.filters.to(wave.device) @ power * self.gain

    def linear(self, x: Tensor) -> Tensor:
        """Power spectra S ≥ 0 that minimise |M S − m|², (n, window/2 + 1, frames), by multiplicative updates.

        M are the mel filters and m the mel power of x, set to 0 within 0.1 dB of the floor. The update is
        S ← S (Mᵀ m)/(Mᵀ M S), elementwise.

        Args:
            x: Points, (n, 1, bands, frames).
        """
        decibels = self.decibels(x)
        power = torch.where(decibels > self.floor_db + 0.1, 10 ** (decibels / 10) / self.gain, 0.0)
        filters = self.filters.to(x.device)
        pull, found = filters.T @ power, filters.T @ power / filters.sum(0).clamp_min(TINY)[:, None]
        gram = filters.T @ filters
        for _ in range(INVERSIONS):
            found = found * pull / (gram @ found).clamp_min(TINY)
        return found

    def griffin_lim(self, magnitude: Tensor, samples: int) -> Tensor:
        """Waveforms whose short-time Fourier transform has nearly the given magnitudes, (n, samples) float.

        Fast Griffin–Lim from a random phase of a fixed seed.

        Args:
            magnitude: Magnitudes, (n, bins, frames).
            samples: Length of the waveforms, samples.
        """
        magnitude = F.pad(magnitude, (0, 1))  # the last frame, which encode omits, is silent
        turn = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
        turn = turn.to(magnitude.device)
        phase, before = torch.polar(torch.ones_like(turn), turn), torch.zeros_like(turn, dtype=torch.complex64)
        for _ in range(ROUNDS):
            now = self.spectrum(self._wave(magnitude * phase, samples))
            ahead = now + MOMENTUM * (now - before)
            phase, before = ahead / ahead.abs().clamp_min(TINY), now
        return self._wave(magnitude * phase, samples)

    def _wave(self, spectrum: Tensor, samples: int) -> Tensor:
        return torch.istft(spectrum, self.window, self.hop, window=self.hann(spectrum.device), length=samples)
