"""Synthetic instruments, which play notes by additive synthesis."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from flowport.errors import Checked
from flowport.randomness import Randomness

ONSET, RELEASE = 0.03, 0.05
"""Silence before a note begins and duration of its fading at the end, in seconds."""
LOUDEST = 0.25
"""Root of the sum of squared harmonic amplitudes at 0 dB, which holds peaks below 1."""


@dataclass(frozen=True)
class NoteSequence:
    """A batch of n notes to be played.

    Args:
        pitch: Fundamental frequencies in Hz, (n,).
        loudness: Levels in dB, at most 0, (n,).
        duration: Durations in seconds, (n,).
    """

    pitch: Tensor
    loudness: Tensor
    duration: Tensor

    @staticmethod
    def written(n: int, randomness: Randomness) -> "NoteSequence":
        """Random notes: pitch log-uniform in [220, 880] Hz, loudness U[−12, 0] dB, duration U[0.4, 0.9] s.

        Args:
            n: Number of notes.
            randomness: Randomness of the notes.
        """
        u = torch.rand(3, n, generator=randomness.generator("score"), dtype=torch.float64)
        return NoteSequence(220 * 4 ** u[0], -12 * u[1], 0.4 + 0.5 * u[2])

    def __len__(self) -> int:
        return len(self.pitch)

    def __getitem__(self, rows: slice) -> "NoteSequence":
        return NoteSequence(self.pitch[rows], self.loudness[rows], self.duration[rows])


@dataclass(frozen=True)
class Voice:
    """Parameters of the additive synthesis of n notes at T sample times.

    Args:
        frequency: Fundamental frequency in Hz, (n, T).
        envelope: Amplitude envelope in [0, 1], (n, T).
        amplitudes: Relative amplitude of each harmonic k = 1, 2, …, one tensor (n, T) or (n, 1) each.
        breath: Standard deviation of white noise, relative to the envelope.
    """

    frequency: Tensor
    envelope: Tensor
    amplitudes: list[Tensor]
    breath: float = 0.0


def ramp(seconds: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """A raised-cosine ramp from 0 at ``start`` to 1 at ``start + length``, (n, T).

    Args:
        seconds: Times in seconds, (T,).
        start: Begin of each ramp in seconds, (n, 1).
        length: Duration of each ramp in seconds, (n, 1).
    """
    return 0.5 - 0.5 * (pi * ((seconds - start) / length).clamp(0, 1)).cos()


class Instrument(Checked, ABC):
    """A synthetic instrument, which turns notes into waves.

    A member provides ``voice`` and is a frozen dataclass: ``Notes`` caches what equal instruments play.

    To add a member: subclass this class in this module, export it in ``__init__.py`` and add
    ``configs/distribution/<name>.yaml`` with ``_target_: flowport.distribution.Notes`` and the instrument in it.
    """

    @abstractmethod
    def voice(self, score: NoteSequence, seconds: Tensor, generator: torch.Generator) -> Voice:
        """Synthesis parameters of every note, with random variations between notes.

        Args:
            score: The n notes.
            seconds: Sample times in seconds, (T,).
            generator: Randomness of the variations.
        """

    def play(self, score: NoteSequence, rate: int, samples: int, generator: torch.Generator) -> Tensor:
        """Waves of the notes, (n, samples) int16.

        x = g e (Σ_k a_k sin(k φ) / √(Σ_k a_k²) + b ε), with the phase φ = 2π ∫ f dt of the frequency f, the envelope e,
        white noise ε ~ N(0, 1) of the breath b, and the gain g = LOUDEST · 10^(loudness / 20). Harmonics above
        rate / 2 − 50 Hz are left out.

        Args:
            score: The n notes.
            rate: Sample rate in Hz.
            samples: Samples of a wave.
            generator: Randomness of the variations and the noise.
        """
        seconds = torch.arange(samples, dtype=torch.float64) / rate
        voice = self.voice(score, seconds, generator)
        turn = torch.polar(torch.ones((), dtype=torch.float64), 2 * pi * (voice.frequency.double() / rate).cumsum(1))
        turn = turn.to(torch.complex64)
        wave, power, tone = torch.zeros(turn.shape), torch.zeros(turn.shape), torch.ones_like(turn)
        reach = ((rate / 2 - 50) / voice.frequency).float()  # harmonics above it would alias
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
    """A flute-like timbre with few harmonics, a slow attack, vibrato and breath.

    Harmonic amplitudes 1, 0.35, 0.12 and 0.05, each varied by N(0, 1) dB per note; attack of 80 to 120 ms; vibrato of
    10 to 25 cents at 4.5 to 6 Hz; breath of 0.02.
    """

    def voice(self, score: NoteSequence, seconds: Tensor, generator: torch.Generator) -> Voice:
        n = len(score)
        attack, depth = _between(0.08, 0.12, n, generator), _between(10, 25, n, generator)
        speed, phase = _between(4.5, 6.0, n, generator), _between(0, 2 * pi, n, generator)
        frequency = score.pitch[:, None] * 2 ** (depth / 1200 * (2 * pi * speed * seconds + phase).sin())
        jitter = torch.randn(4, n, 1, generator=generator, dtype=torch.float64)
        amplitudes = [(a * 10 ** (j / 20)).float() for a, j in zip((1.0, 0.35, 0.12, 0.05), jitter, strict=True)]
        return Voice(frequency, _envelope(score, seconds, attack), amplitudes, breath=0.02)


HARMONICS = 18
"""Harmonics of brass, as many as its lowest note, 220 Hz, has below the Nyquist frequency of 4 kHz."""


@dataclass(frozen=True)
class Brass(Instrument):
    """A brass-like timbre with many harmonics and a quick attack.

    Harmonic amplitudes a_k = e^{−(k−1)/b}, k ≤ 18, with b = 0.5 + (2 + 3 (1 + loudness / 12)) ρ. The attack lasts 25 to
    45 ms; over twice its duration ρ rises from 0 to 1 and the pitch rises by 40 cents.
    """

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
