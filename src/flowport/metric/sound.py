"""Is it the right note, and does it sound like the right instrument? Distances between spectrograms and pitches."""

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
"""Pitches looked for: from 200 Hz over 2.2 octaves, 120 to an octave (10 cents)."""
WINDOW = 2048
"""Samples in which the pitch of a wave is looked for."""
CEPSTRA = 12


def log_spectral_distance(a: Float[Tensor, "n b f"], b: Float[Tensor, "n b f"]) -> Tensor:
    """Mean over frames of the root mean square difference over bands -> (n,), decibels. a, b in decibels."""
    return (a - b).double().square().mean(1).sqrt().mean(1)


def mel_cepstral_distortion(a: Float[Tensor, "n b f"], b: Float[Tensor, "n b f"]) -> Tensor:
    """(10/ln 10) √(2 Σ_{k=1}^{12} (c_k − c′_k)²), mean over frames -> (n,), decibels (Kubichek 1993).

    c: the orthonormal cosine transform of the natural logarithm of the mel amplitudes; the loudness c_0 does not count.
    a, b in decibels.
    """
    bands = a.shape[1]
    k = torch.arange(1, CEPSTRA + 1, dtype=torch.float64, device=a.device)[:, None]
    band = torch.arange(bands, dtype=torch.float64, device=a.device) + 0.5
    cosines = (2 / bands) ** 0.5 * (torch.pi * k * band / bands).cos()
    change = cosines @ ((a - b).double() * log(10) / 20)
    return 10 / log(10) * (2 * change.square().sum(1)).sqrt().mean(1)


def _profile(decibels: Tensor) -> Tensor:
    """(n, bands, frames) to (n, bands): the mean spectrum, frames weighted by energy, centred, of length 1."""
    energy = (10 ** (decibels / 10)).sum(1, keepdim=True)
    mean = (decibels * energy).sum(2) / energy.sum(2).clamp_min(1e-20)
    mean = mean - mean.mean(1, keepdim=True)
    return mean / mean.norm(dim=1, keepdim=True).clamp_min(1e-9)


@lru_cache(maxsize=8)
def _templates(instrument: Instrument, options: tuple[float | None, ...]) -> Tensor:
    """(loudnesses, pitches, bands): an instrument's steady notes as LogMel(*options) sees them; kept, for they take
    seconds to play and every metric of a process looks for the same."""
    modality = LogMel(*options)  # type: ignore[arg-type]
    pitch, sets = LOWEST * 2 ** (torch.arange(int(OCTAVES * GRID), dtype=torch.float64) / GRID), []
    for loudness in (-10.0, -6.0, -2.0):
        score = NoteSequence(pitch, torch.full_like(pitch, loudness), torch.full_like(pitch, 0.9))
        raw = instrument.play(score, modality.rate, 8 * modality.window, Randomness().generator("templates"))
        sets.append(_profile(modality.decibels(modality.encode(raw, None))))
    return torch.stack(sets)


class PitchFinder:
    """The pitch of a spectrogram: the template it correlates with best, refined by a parabola.

    Templates are the instruments' own steady notes every 10 cents, at three loudnesses.
    """

    def __init__(self, modality: LogMel, instruments: tuple[Instrument, ...]) -> None:
        self.modality = modality
        self.templates = torch.cat([_templates(player, modality.options) for player in instruments])

    def octaves_above_440(self, x: Tensor) -> Tensor:
        """Points (n, 1, bands, frames) to (n,) float64."""
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
    """(n, T) waves to (n,) octaves above 440 Hz: the first high peak of the autocorrelation of the loudest window,
    divided by that of the window itself (Boersma 1993), interpolated eightfold. lowest: Hz, from which pitches are
    looked for over ``octaves``."""
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
    """The modality, if it is sound in mel bands. Raises FlowportError for any other."""
    if not isinstance(modality, LogMel):
        raise FlowportError(
            f"metric={metric} is for sound as LogMel, but the target is {type(modality).__name__}: leave it out"
        )
    return modality


def in_the_wave(x: Tensor, modality: LogMel) -> Tensor:
    """Points to (n,) octaves above 440 Hz, heard in the waves that they decode to."""
    waves = torch.cat([modality.decode(part) for part in x.split(64)])
    return autocorrelation_pitch(waves, modality.rate)


class SpectralDistance(Metric):
    """``lsd`` and ``mcd`` to the true partner, decibels, means over clips; ``_untranslated``: of the source,
    ``_retrieved``: of the nearest training target. check: the held-out items must correspond."""

    needs_retrieval = True
    distances: list[Tensor]
    WHICH = ("", "_untranslated", "_retrieved")

    def __init__(self) -> None:
        super().__init__()
        self.add_state("distances", default=[], dist_reduce_fx="cat")

    def check(self, source: Distribution, target: Distribution) -> None:
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
    """``pitch_cents``: median |pitch heard − pitch of the source note|; ``pitch_cents_p90``; ``pitch_within_50``: share
    within 50 cents. ``_floor``: of real target notes, ``_untranslated``, ``_retrieved`` as everywhere.

    Heard in the spectrogram (by templates) and, as ``audible_…``, in the wave that its inversion gives (by
    autocorrelation). Doing nothing keeps the pitch: read it beside the spectral distance and the timbre.
    labels: octaves above 440 Hz, (n, 1).
    """

    needs_retrieval = True
    errors: list[Tensor]
    WHICH = ("", "_floor", "_untranslated", "_retrieved")

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        super().__init__()
        self.instruments = tuple(instruments)
        self.add_state("errors", default=[], dist_reduce_fx="cat")

    def check(self, source: Distribution, target: Distribution) -> None:
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
