"""Synthetic instruments: what a note sounds like, by additive synthesis."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from flowport.randomness import Randomness

ONSET, RELEASE = 0.03, 0.05
"""Seconds before a note begins, and in which it fades."""
LOUDEST = 0.25
"""Root of the sum of squared harmonic amplitudes at 0 dB; peaks stay below 1."""


@dataclass(frozen=True)
class NoteSequence:
    """Notes to be played. pitch (n,) Hz; loudness (n,) dB, at most 0; duration (n,) seconds."""

    pitch: Tensor
    loudness: Tensor
    duration: Tensor

    @staticmethod
    def written(n: int, randomness: Randomness) -> "NoteSequence":
        """n notes: pitch log-uniform in [220, 880] Hz, loudness U[−12, 0] dB, duration U[0.4, 0.9] s."""
        u = torch.rand(3, n, generator=randomness.generator("score"), dtype=torch.float64)
        return NoteSequence(220 * 4 ** u[0], -12 * u[1], 0.4 + 0.5 * u[2])

    def __len__(self) -> int:
        return len(self.pitch)

    def __getitem__(self, rows: slice) -> "NoteSequence":
        return NoteSequence(self.pitch[rows], self.loudness[rows], self.duration[rows])


@dataclass(frozen=True)
class Voice:
    """What an instrument makes of n notes: frequency (n, T) Hz; envelope (n, T); amplitudes of harmonic k, an
    (n, T) or (n, 1) tensor each; breath: noise relative to the envelope."""

    frequency: Tensor
    envelope: Tensor
    amplitudes: list[Tensor]
    breath: float = 0.0


def ramp(seconds: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """(n, T): 0 before start, 1 after start + length, half a cosine between. seconds (T,), start and length (n, 1)."""
    return 0.5 - 0.5 * (pi * ((seconds - start) / length).clamp(0, 1)).cos()


class Instrument(ABC):
    """Those of equal options should be equal: what they play is kept."""

    @abstractmethod
    def voice(self, score: NoteSequence, seconds: Tensor, generator: torch.Generator) -> Voice:
        """How the notes sound at times ``seconds`` (T,), each note with variations of its own."""

    def play(self, score: NoteSequence, rate: int, samples: int, generator: torch.Generator) -> Tensor:
        """(n, samples) int16 at ``rate`` Hz: g · envelope · Σ_k a_k sin(k φ), φ = 2π ∫ f dt, with Σ a_k² = 1."""
        seconds = torch.arange(samples, dtype=torch.float64) / rate
        voice = self.voice(score, seconds, generator)
        turn = torch.polar(torch.ones((), dtype=torch.float64), 2 * pi * (voice.frequency.double() / rate).cumsum(1))
        turn = turn.to(torch.complex64)
        wave, power, tone = torch.zeros(turn.shape), torch.zeros(turn.shape), torch.ones_like(turn)
        reach = ((rate / 2 - 50) / voice.frequency).float()  # harmonics above it would fold back
        for k, amplitude in enumerate(voice.amplitudes, 1):
            tone = tone * turn  # e^{ikφ} from e^{i(k−1)φ}: one product instead of one sine
            audible = amplitude * (k < reach)
            wave += audible * tone.imag
            power += audible.square()
        wave /= power.sqrt().clamp_min(1e-6)
        wave += voice.breath * torch.randn(wave.shape, generator=generator)
        wave *= voice.envelope.float() * LOUDEST * (10 ** (score.loudness / 20)).float()[:, None]
        return (32767 * wave.clamp(-1, 1)).round().to(torch.int16)


def _between(low: float, high: float, n: int, generator: torch.Generator) -> Tensor:
    """(n, 1) uniform in [low, high]."""
    return low + (high - low) * torch.rand(n, 1, generator=generator, dtype=torch.float64)


def _envelope(score: NoteSequence, seconds: Tensor, attack: Tensor) -> Tensor:
    end = ONSET + score.duration[:, None]
    return ramp(seconds, torch.full_like(attack, ONSET), attack) * (
        1 - ramp(seconds, end - RELEASE, torch.full_like(end, RELEASE))
    )


@dataclass(frozen=True)
class Flute(Instrument):
    """Four weak harmonics, a slow attack (80 to 120 ms), vibrato (10 to 25 cents at 4.5 to 6 Hz) and breath."""

    def voice(self, score: NoteSequence, seconds: Tensor, generator: torch.Generator) -> Voice:
        n = len(score)
        attack, depth = _between(0.08, 0.12, n, generator), _between(10, 25, n, generator)
        speed, phase = _between(4.5, 6.0, n, generator), _between(0, 2 * pi, n, generator)
        frequency = score.pitch[:, None] * 2 ** (depth / 1200 * (2 * pi * speed * seconds + phase).sin())
        jitter = torch.randn(4, n, 1, generator=generator, dtype=torch.float64)
        amplitudes = [(a * 10 ** (j / 20)).float() for a, j in zip((1.0, 0.35, 0.12, 0.05), jitter, strict=True)]
        return Voice(frequency, _envelope(score, seconds, attack), amplitudes, breath=0.02)


HARMONICS = 18
"""Of brass: those of its lowest note, 220 Hz, below 4 kHz, the edge of sound at 8 kHz."""


@dataclass(frozen=True)
class Brass(Instrument):
    """Eighteen harmonics, as far as the band holds them, a_k = e^{−(k−1)/b}; b grows with loudness and during a quick
    attack (25 to 45 ms), in which the pitch rises by 40 cents."""

    def voice(self, score: NoteSequence, seconds: Tensor, generator: torch.Generator) -> Voice:
        n = len(score)
        attack = _between(0.025, 0.045, n, generator)
        risen = ramp(seconds, torch.full_like(attack, ONSET), 2 * attack)
        frequency = score.pitch[:, None] * 2 ** (-40 / 1200 * (1 - risen))
        bright = (1 + score.loudness / 12)[:, None]
        width = 0.5 + (2.0 + 3.0 * bright) * risen
        decay = (-1 / width).exp().float()
        amplitudes, now = [], torch.ones_like(decay)
        for _ in range(HARMONICS):
            amplitudes.append(now)
            now = now * decay
        return Voice(frequency, _envelope(score, seconds, attack), amplitudes)
