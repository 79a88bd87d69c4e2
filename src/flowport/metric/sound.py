"""Metrics of sound: distances between spectrograms, and errors of the pitch in spectrogram and wave.

References:
    Gray and Markel 1976, "Distance measures for speech processing", doi:10.1109/TASSP.1976.1162849 (log-spectral
        distance).
    Kubichek 1993, "Mel-cepstral distance measure for objective speech quality assessment",
        doi:10.1109/PACRIM.1993.407206.
    Boersma 1993, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
        sampled sound", IFA Proceedings 17:97-110 (pitch by autocorrelation).
"""

from collections.abc import Sequence
from functools import lru_cache
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from flowport.distribution.base import Distribution
from flowport.distribution.instrument import Instrument, NoteSequence
from flowport.errors import FlowportError
from flowport.metric.base import EvaluationResult, Metric
from flowport.metric.two_sample import gathered
from flowport.modality import LogMel, Modality
from flowport.randomness import Randomness

LOWEST, OCTAVES, GRID = 200.0, 2.2, 120
"""Range of the search for a pitch: from 200 Hz over 2.2 octaves, 120 pitches per octave (10 cents)."""
WINDOW = 2048
"""Number of samples of the window in which the pitch of a wave is estimated."""
CEPSTRA = 12
"""Number of cepstral coefficients of the mel-cepstral distortion, without c_0."""


def log_spectral_distance(a: Float[Tensor, "n b f"], b: Float[Tensor, "n b f"]) -> Tensor:
    """Log-spectral distance: mean over frames of the root mean square difference over bands, (n,) float64, dB.

    Args:
        a: Levels, (n, bands, frames), dB.
        b: Levels, (n, bands, frames), dB.

    References:
        Gray and Markel 1976, "Distance measures for speech processing", doi:10.1109/TASSP.1976.1162849.
    """
    return (a - b).double().square().mean(1).sqrt().mean(1)


def mel_cepstral_distortion(a: Float[Tensor, "n b f"], b: Float[Tensor, "n b f"]) -> Tensor:
    """Mel-cepstral distortion (10/ln 10) √(2 Σ_{k=1}^{12} (c_k − c′_k)²), mean over frames, (n,) float64, dB.

    c is the orthonormal cosine transform of the natural logarithm of the mel amplitudes; c_0, the loudness, is left
    out.

    Args:
        a: Levels, (n, bands, frames), dB.
        b: Levels, (n, bands, frames), dB.

    References:
        Kubichek 1993, "Mel-cepstral distance measure for objective speech quality assessment",
            doi:10.1109/PACRIM.1993.407206.
    """
    bands = a.shape[1]
    k = torch.arange(1, CEPSTRA + 1, dtype=torch.float64, device=a.device)[:, None]
    band = torch.arange(bands, dtype=torch.float64, device=a.device) + 0.5
    cosines = (2 / bands) ** 0.5 * (torch.pi * k * band / bands).cos()
    change = cosines @ ((a - b).double() * log(10) / 20)
    return 10 / log(10) * (2 * change.square().sum(1)).sqrt().mean(1)


def _profile(decibels: Tensor) -> Tensor:
    """The mean spectrum, frames weighted by energy, centred and of length 1: (n, bands, frames) -> (n, bands)."""
    energy = (10 ** (decibels / 10)).sum(1, keepdim=True)
    mean = (decibels * energy).sum(2) / energy.sum(2).clamp_min(1e-20)
    mean = mean - mean.mean(1, keepdim=True)
    return mean / mean.norm(dim=1, keepdim=True).clamp_min(1e-9)


@lru_cache(maxsize=8)
def _templates(instrument: Instrument, options: tuple[float | None, ...]) -> Tensor:
    """Spectra of steady notes of an instrument by LogMel(*options), (loudnesses, pitches, bands)."""
    modality = LogMel(*options)  # type: ignore[arg-type]
    pitch, sets = LOWEST * 2 ** (torch.arange(int(OCTAVES * GRID), dtype=torch.float64) / GRID), []
    for loudness in (-10.0, -6.0, -2.0):
        score = NoteSequence(pitch, torch.full_like(pitch, loudness), torch.full_like(pitch, 0.9))
        raw = instrument.play(score, modality.rate, 8 * modality.window, Randomness().generator("templates"))
        sets.append(_profile(modality.decibels(modality.encode(raw, None))))
    return torch.stack(sets)


class PitchFinder:
    """Pitch of a spectrogram by the template of the highest correlation, refined by a parabola.

    Templates are the spectra of steady notes of the instruments, every 10 cents and at three loudnesses.

    Args:
        modality: Modality of the spectrograms.
        instruments: Instruments whose notes are the templates.
    """

    def __init__(self, modality: LogMel, instruments: tuple[Instrument, ...]) -> None:
        self.modality = modality
        self.templates = torch.cat([_templates(player, modality.options) for player in instruments])

    def octaves_above_440(self, x: Tensor) -> Tensor:
        """Pitch of spectrograms, (n,) float64, in octaves above 440 Hz.

        Args:
            x: Points, (n, 1, bands, frames).
        """
        match = torch.einsum("nb,spb->nsp", _profile(self.modality.decibels(x)), self.templates.to(x.device)).double()
        best = match.flatten(1).argmax(1)
        which, at = best // match.shape[2], (best % match.shape[2]).clamp(1, match.shape[2] - 2)
        rows = torch.arange(len(x), device=x.device)
        left, middle, right = (match[rows, which, at + k] for k in (-1, 0, 1))
        bend = left - 2 * middle + right
        shift = torch.where(bend < 0, (0.5 * (left - right) / bend).clamp(-1, 1), 0.0)
        return (at + shift) / GRID + log(LOWEST / 440, 2)


def autocorrelation_pitch(
    wave: Tensor, rate: int, window: int = WINDOW, lowest: float = LOWEST, octaves: float = OCTAVES
) -> Tensor:
    """Pitch of waves by autocorrelation, (n,), in octaves above 440 Hz.

    The lag is that of the first high peak of the autocorrelation of the loudest window, divided by the autocorrelation
    of the Hann window itself and interpolated eightfold.

    Args:
        wave: Waves, (n, T).
        rate: Sample rate, Hz.
        window: Length of the window, samples.
        lowest: Lowest pitch of the search, Hz.
        octaves: Range of the search above it, octaves.

    References:
        Boersma 1993, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
            sampled sound", IFA Proceedings 17:97-110.
    """
    frames = wave.double().unfold(1, window, window // 4)
    loudest = frames.square().sum(2).argmax(1)
    hann = torch.hann_window(window, dtype=torch.float64, device=wave.device)
    frame = frames[torch.arange(len(wave), device=wave.device), loudest]
    frame = (frame - frame.mean(1, keepdim=True)) * hann
    fine, short, long = 8, int(rate / (lowest * 2**octaves)), int(rate / lowest) + 1

    def lags(signal: Tensor) -> Tensor:
        power = torch.fft.rfft(signal, 2 * window).abs().square()
        return torch.fft.irfft(power, 2 * window * fine)[..., : (long + 2) * fine]

    found = lags(frame) / lags(hann)
    found = found / found[:, :1].clamp_min(1e-20)
    inner = found[:, 1:-1]
    peak = (inner >= found[:, :-2]) & (inner > found[:, 2:])
    peak[:, : short * fine] = False
    height = torch.where(peak, inner, -1.0)
    first = (height >= 0.9 * height.amax(1, keepdim=True)).double().argmax(1) + 1
    rows = torch.arange(len(wave), device=wave.device)
    left, middle, right = (found[rows, first + k] for k in (-1, 0, 1))
    lag = (first + 0.5 * (left - right) / (left - 2 * middle + right).clamp_max(-1e-12)) / fine
    return (rate / lag / 440).log2()


def spectrogram(modality: Modality | None, metric: str) -> LogMel:
    """The modality, checked to be a log-mel spectrogram.

    Args:
        modality: A modality or None.
        metric: Name of the metric in the message.

    Raises:
        FlowportError: For any other modality.
    """
    if not isinstance(modality, LogMel):
        raise FlowportError(
            f"metric={metric} is for sound as LogMel, but the target is {type(modality).__name__}: leave it out"
        )
    return modality


def in_the_wave(x: Tensor, modality: LogMel) -> Tensor:
    """Pitch of the waves to which spectrograms are decoded, (n,), in octaves above 440 Hz (``autocorrelation_pitch``).

    Args:
        x: Points, (n, 1, bands, frames).
        modality: Their modality.
    """
    waves = torch.cat([modality.decode(part) for part in x.split(64)])
    return autocorrelation_pitch(waves, modality.rate)


class SpectralDistance(Metric):
    """Log-spectral distance ``lsd`` and mel-cepstral distortion ``mcd`` to the true translation, means over clips, dB.

    Values: ``lsd`` and ``mcd``, each with ``_untranslated``, of the source, and ``_retrieved``, of the nearest training
    target; ``lsd_n``. Held-out source and target items must correspond.
    """

    needs_retrieval = True
    distances: list[Tensor]
    WHICH = ("", "_untranslated", "_retrieved")

    def __init__(self) -> None:
        super().__init__()
        self.add_state("distances", default=[], dist_reduce_fx="cat")

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that the target is a log-mel spectrogram and that held-out items correspond.

        Args:
            source: The source.
            target: The target.

        Raises:
            FlowportError: When the target is another modality or the true translations are unknown.
        """
        spectrogram(target.modality, "spectral_distance")
        if not source.split("test").corresponds(target.split("test")):
            raise FlowportError(
                "metric=spectral_distance needs the true partner of every held-out source item: leave it out"
            )

    def update(self, outcome: EvaluationResult) -> None:
        assert outcome.partner is not None and outcome.retrieved is not None, "check() was not asked"
        modality = spectrogram(outcome.modality, "spectral_distance")
        truth = modality.decibels(outcome.partner)
        seen = [modality.decibels(x) for x in (outcome.result, outcome.source.x, outcome.retrieved)]
        pairs = [measure(x, truth) for measure in (log_spectral_distance, mel_cepstral_distortion) for x in seen]
        self.distances.append(torch.stack(pairs, 1))

    def compute(self) -> dict[str, Tensor]:
        found = gathered(self.distances)
        assert found is not None
        names = [name + which for name in ("lsd", "mcd") for which in self.WHICH]
        return dict(zip(names, found.mean(0), strict=True)) | {"lsd_n": torch.tensor(len(found))}


class PitchError(Metric):
    """Error |pitch of the translation − pitch of the source note|, in cents.

    Values: ``pitch_cents``, the median; ``pitch_cents_p90``, the 90 % quantile; ``pitch_within_50``, the share within
    50 cents; each with ``_floor``, of real target notes and their own label, ``_untranslated`` and ``_retrieved``. They
    are measured in the spectrogram (``PitchFinder``) and, as ``audible_…`` in place of ``pitch_…``, in the wave to
    which it is decoded (``autocorrelation_pitch``). ``pitch_n`` is the number of notes. An untranslated source has no
    error, so timbre is to be measured as well (``SpectralDistance``). Labels are octaves above 440 Hz, (n, 1).

    Args:
        instruments: Instruments whose notes are the templates of the pitch.
    """

    needs_retrieval = True
    errors: list[Tensor]
    WHICH = ("", "_floor", "_untranslated", "_retrieved")

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        super().__init__()
        self.instruments = tuple(instruments)
        self.add_state("errors", default=[], dist_reduce_fx="cat")

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check that labels are pitches, the target is a log-mel spectrogram and clips are long enough.

        Args:
            source: The source.
            target: The target.

        Raises:
            FlowportError: When one of them does not hold.
        """
        modality = spectrogram(target.modality, "pitch_error")
        if not (source.label_is_pitch and target.label_is_pitch):
            raise FlowportError("metric=pitch_error needs notes whose label is their pitch on both sides: leave it out")
        samples = target.event_shape[2] * modality.hop
        if samples < WINDOW:
            raise FlowportError(
                f"metric=pitch_error listens to {WINDOW} samples, but a clip has {samples}: leave it out"
            )

    def update(self, outcome: EvaluationResult) -> None:
        assert outcome.source.label is not None and outcome.target.label is not None and outcome.retrieved is not None
        modality = spectrogram(outcome.modality, "pitch_error")
        finder = PitchFinder(modality, self.instruments)
        wanted, n = outcome.source.label[:, 0], min(len(outcome.target), len(outcome.source))
        real = outcome.target.label[:n, 0]
        heard = [
            (outcome.result, wanted),
            (outcome.target.x[:n], real),
            (outcome.source.x, wanted),
            (outcome.retrieved, wanted),
        ]
        columns = []
        for listen in (finder.octaves_above_440, lambda x: in_the_wave(x, modality)):
            for x, truth in heard:
                cents = 1200 * (listen(x) - truth.double()).abs()
                columns.append(cents[torch.arange(len(wanted), device=cents.device) % len(cents)])
        self.errors.append(torch.stack(columns, 1))

    def compute(self) -> dict[str, Tensor]:
        found = gathered(self.errors)
        assert found is not None
        values: dict[str, Tensor] = {}
        keys = [(how, which) for how in ("pitch", "audible") for which in self.WHICH]
        for (how, which), cents in zip(keys, found.T, strict=True):
            values[f"{how}_cents{which}"] = cents.median()
            values[f"{how}_cents_p90{which}"] = cents.quantile(0.9)
            values[f"{how}_within_50{which}"] = (cents <= 50).double().mean()
        return values | {"pitch_n": torch.tensor(len(found))}
