"""Sound as a log-mel spectrogram, and back by non-negative inversion and Griffin–Lim; plain torch, on any device."""

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.errors import FlowportError
from flowport.modality.spectrogram import Spectrogram

TINY = 1e-12
INVERSIONS, ROUNDS, MOMENTUM = 60, 40, 0.7
"""Steps of the mel inversion and of Griffin–Lim, and the latter's acceleration."""


def mel(hertz: Tensor) -> Tensor:
    """Mels by O'Shaughnessy's formula (HTK): 2595 log₁₀(1 + f/700)."""
    return 2595 * (1 + hertz / 700).log10()


def mel_corners(bands: int, low: float, high: float) -> Tensor:
    """(bands + 2,) Hz, equally spaced in mels from low to high: triangle k rises from corner k, is 1 at k + 1 and falls
    to k + 2."""
    ends = mel(torch.tensor([low, high], dtype=torch.float64))
    corners = torch.linspace(float(ends[0]), float(ends[1]), bands + 2, dtype=torch.float64)
    return 700 * (10 ** (corners / 2595) - 1)


def mel_filters(bands: int, bins: int, rate: int, low: float, high: float) -> Tensor:
    """(bands, bins) triangles of peak 1, equally wide in mels between low and high Hz, over bins from 0 to rate/2."""
    hertz = mel_corners(bands, low, high)
    at = torch.linspace(0, rate / 2, bins, dtype=torch.float64)
    rising = (at - hertz[:-2, None]) / (hertz[1:-1] - hertz[:-2])[:, None]
    falling = (hertz[2:, None] - at) / (hertz[2:] - hertz[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0)


class LogMel(Spectrogram):
    """x = (10 log₁₀ max(mel power, floor) − mean) / std: int16 waves (n, T) to (n, 1, bands, T/hop) float32.

    Power is of a Hann window's Fourier transform, scaled so that a sine of amplitude 1 has 0 dB; triangles of peak 1
    between low and high Hz. floor_db, mean, std: decibels; one mean and one std for all data, so that loudness stays;
    null: those of the training data, measured when a run is built (until then 0 and 1).
    decode finds a non-negative spectrum under the mels and a phase for it (fast Griffin–Lim; Perraudin et al. 2013):
    pitch and timbre survive, the phase does not. Raises FlowportError for settings that leave a mel band without a
    bin and
    for anything but int16 waves. options: what it was made of, in order, so that LogMel(*options) is the same again.
    """

    def __init__(
        self,
        rate: int = 8000,
        window: int = 1024,
        hop: int = 256,
        bands: int = 64,
        low: float = 60.0,
        high: float = 4000.0,
        floor_db: float = -70.0,
        mean: float | None = -61.0,
        std: float | None = 15.1,
    ) -> None:
        if not 0 <= low < high <= rate / 2:
            raise FlowportError(
                f"modality.low={low} and modality.high={high} must lie in order between 0 and {rate / 2} Hz"
            )
        if not 0 < hop <= window // 2 or (std is not None and std <= 0):
            raise FlowportError(
                f"modality needs 0 < hop ≤ window/2 and std > 0, not hop={hop}, window={window}, std={std}"
            )
        self.options = (rate, window, hop, bands, low, high, floor_db, mean, std)
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
        power = self.spectrum(self.amplitudes(raw)).abs().square()[:, :, : raw.shape[1] // self.hop]
        return self.normalised(self.filters.to(raw.device) @ power * self.gain)

    def unknown(self) -> tuple[str, ...]:
        return tuple(name for name, value in self._given.items() if value is None)

    def settled(self, mean: float, std: float) -> dict[str, float]:
        found = {"mean": self.mean + self.std * mean, "std": self.std * std}
        return {name: found[name] for name in self.unknown()}

    def normalised(self, power: Tensor) -> Tensor:
        """Mel power (n, bands, frames), 1 for a unit sine, to points (n, 1, bands, frames)."""
        decibels = 10 * power.clamp_min(10 ** (self.floor_db / 10)).log10()
        return ((decibels - self.mean) / self.std)[:, None]

    def decibels(self, x: Tensor) -> Tensor:
        """Points (n, 1, bands, frames) to decibels (n, bands, frames), not below the floor."""
        return (x[:, 0].float() * self.std + self.mean).clamp_min(self.floor_db)

    def energy(self, x: Tensor) -> Tensor:
        return 10 ** ((x[:, 0] * self.std + self.mean).clamp_min(self.floor_db) / 10)

    def hertz(self) -> Tensor:
        """Of the triangles' peaks."""
        return mel_corners(self.bands, self.low, self.high)[1:-1]

    def spectrum(self, wave: Tensor) -> Tensor:
        """(n, T) to complex (n, window/2 + 1, T/hop + 1)."""
        return torch.stft(wave, self.window, self.hop, window=self.hann(wave.device), return_complex=True)

    def decode(self, x: Tensor) -> Tensor:
        """Points to int16 waves (n, frames · hop)."""
        wave = self.griffin_lim(self.linear(x).sqrt(), x.shape[3] * self.hop)
        return (32767 * wave.clamp(-1, 1)).round().to(torch.int16)

    def linear(self, x: Tensor) -> Tensor:
        """Power (n, window/2 + 1, frames) under the mels of x: multiplicative updates of min |M S − mel|², S ≥ 0
        (Lee & Seung 1999). What stands at the floor is silence."""
        decibels = self.decibels(x)
        power = torch.where(decibels > self.floor_db + 0.1, 10 ** (decibels / 10) / self.gain, 0.0)
        filters = self.filters.to(x.device)
        pull, found = filters.T @ power, filters.T @ power / filters.sum(0).clamp_min(TINY)[:, None]
        gram = filters.T @ filters
        for _ in range(INVERSIONS):
            found = found * pull / (gram @ found).clamp_min(TINY)
        return found

    def griffin_lim(self, magnitude: Tensor, samples: int) -> Tensor:
        """(n, bins, frames) magnitudes to a wave (n, samples) whose spectrum has nearly these magnitudes."""
        magnitude = F.pad(magnitude, (0, 1))  # the last frame, which encode leaves out, is silent
        generator = torch.Generator(magnitude.device).manual_seed(0)
        turn = torch.rand(magnitude.shape, generator=generator, device=magnitude.device) * 2 * torch.pi
        phase, before = torch.polar(torch.ones_like(turn), turn), torch.zeros_like(turn, dtype=torch.complex64)
        for _ in range(ROUNDS):
            now = self.spectrum(self._wave(magnitude * phase, samples))
            ahead = now + MOMENTUM * (now - before)
            phase, before = ahead / ahead.abs().clamp_min(TINY), now
        return self._wave(magnitude * phase, samples)

    def _wave(self, spectrum: Tensor, samples: int) -> Tensor:
        return torch.istft(spectrum, self.window, self.hop, window=self.hann(spectrum.device), length=samples)
