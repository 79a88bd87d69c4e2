"""Distances between spectrograms and pitches, by closed forms."""

import math
from copy import copy
from dataclasses import dataclass

import pytest
import torch

from flowport.distribution import Brass, Digits, Flute, Notes, Stored
from flowport.distribution.instrument import Instrument, Voice
from flowport.errors import FlowportError
from flowport.metric import PitchError, SpectralDistance, log_spectral_distance, mel_cepstral_distortion
from flowport.metric.sound import PitchFinder, _profile, autocorrelation_pitch
from flowport.modality import LogMel
from flowport.types import Sample
from tests.metric.outcomes import outcome_of

A = torch.randn(3, 64, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_constant_offset_is_the_distance_and_no_distortion():
    offset = torch.tensor([3.0, -1.5, 0.0]).double()
    found = log_spectral_distance(A + offset[:, None, None], A)
    torch.testing.assert_close(found, offset.abs())
    assert float(mel_cepstral_distortion(A + offset[:, None, None], A).max()) < 1e-9


def test_half_of_the_bands_off_by_c_is_c_over_root_two():
    b = A.clone()
    b[:, ::2] += 4.0
    torch.testing.assert_close(log_spectral_distance(A, b), torch.full((3,), 4 / math.sqrt(2)).double())


@pytest.mark.parametrize("distance", [log_spectral_distance, mel_cepstral_distortion])
def test_frames_are_averaged_after_the_root(distance):
    """A change of some frames alone costs its share of the time, not the root of it."""
    change = 2.0 * (math.pi * (torch.arange(64).double() + 0.5) / 64).cos()[:, None]
    some = A.clone()
    some[:, :, :5] += change
    torch.testing.assert_close(distance(some, A), distance(A + change, A) * 5 / 20)


@pytest.mark.parametrize(("k", "counts"), [(1, True), (12, True), (13, False), (20, False)])
def test_one_cosine_over_the_bands_has_a_closed_form(k, counts):
    """c_k of a cos(π k (b + ½)/B) decibels is a √(B/2) ln 10 / 20, so the distortion is a √B / 2 for k ≤ 12, else 0."""
    band = torch.arange(64).double() + 0.5
    b = A + (2.0 * (math.pi * k * band / 64).cos())[:, None]
    torch.testing.assert_close(
        mel_cepstral_distortion(b, A), torch.full((3,), 8.0 if counts else 0.0).double(), atol=1e-9, rtol=1e-9
    )


SECONDS = torch.arange(8192).double() / 8000


def heard(wave: torch.Tensor, hertz: torch.Tensor) -> torch.Tensor:
    """Cents between what is heard and what was played."""
    return 1200 * (autocorrelation_pitch(wave, 8000) - (hertz / 440).log2())


@pytest.mark.parametrize("harmonics", [range(1, 2), range(1, 5), range(2, 5)])
def test_autocorrelation_hears_the_fundamental_even_where_it_is_missing(harmonics):
    hertz = torch.tensor([220.0, 311.1, 523.3, 880.0]).double()
    wave = sum((2 * math.pi * k * hertz[:, None] * SECONDS).sin() / k for k in harmonics)
    assert float(heard(wave, hertz).abs().max()) < 0.05


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_a_strong_octave_is_no_other_note(offset):
    """With a share e of the power in the second harmonic the autocorrelation half a period on is 2e − 1: 0.75, too low
    a peak, at 250 Hz; 0.94, but above every pitch that is looked for, at 800 Hz. A constant offset is not heard."""
    hertz, share = torch.tensor([250.0, 800.0]).double(), torch.tensor([0.875, 0.97]).double()[:, None]
    angle = 2 * math.pi * hertz[:, None] * SECONDS
    wave = (1 - share).sqrt() * angle.sin() + share.sqrt() * (2 * angle + 1).sin()
    assert float(heard(wave + offset, hertz).abs().max()) < 0.5


NOTES = {"flute": Notes(Flute(), train=20), "brass": Notes(Brass(), train=20)}


def outcome(n: int = 12, **changes):
    flute, brass = (NOTES[k].split("test").draw(torch.arange(n), None) for k in ("flute", "brass"))
    given = {"source": flute, "result": brass.x, "target": brass, "floor": brass, "partner": brass.x}
    given |= {"modality": LogMel(), "retrieved": brass.x.roll(1, 0), "states": torch.stack([flute.x, brass.x])}
    return outcome_of(**(given | changes))


played = []


@dataclass(frozen=True)
class Whistle(Instrument):
    """One harmonic, steady; it counts how often it is played."""

    gain: float = 1.0

    def voice(self, score, seconds, generator):
        played.append(score)
        steady = torch.ones(len(score), len(seconds))
        return Voice(steady * score.pitch[:, None], self.gain * steady, [torch.ones(1, 1)])


def test_templates_are_played_once_for_all_that_look_for_the_same():
    def templates(modality, *players):
        return PitchFinder(modality, players).templates

    played.clear()
    small = 4000, 256, 128, 16, 70.0, 1900.0, -60.0, -50.0, 12.0
    first = templates(LogMel(*small), Whistle())
    assert len(played) == 3 and first.shape == (3, 264, 16)
    assert torch.equal(templates(LogMel(*small), Whistle()), first) and len(played) == 3
    assert torch.equal(templates(LogMel(*small), Whistle(), Whistle())[3:], first) and len(played) == 3
    assert LogMel(*small).options == small
    templates(LogMel(*small[:3], 15, *small[4:]), Whistle())  # another modality hears otherwise
    assert not torch.equal(templates(LogMel(*small), Whistle(0.0)), first) and len(played) == 9


@pytest.fixture(scope="module")
def pitch() -> PitchError:
    """Of a perfect translation, with other notes as real ones."""
    metric = PitchError([Flute(), Brass()])
    real = NOTES["brass"].split("test").draw(torch.arange(20, 32), None)
    metric.update(outcome(target=real))
    return metric


@pytest.mark.parametrize("name", NOTES)
def test_the_pitch_of_real_notes_is_heard(name):
    test = NOTES[name].split("test").draw(torch.arange(200), None)
    cents = (
        1200 * (PitchFinder(LogMel(), (Flute(), Brass())).octaves_above_440(test.x) - test.label[:, 0].double()).abs()
    )
    assert float(cents.median()) < 1.8 and float(cents.quantile(0.9)) < 5 and float(cents.max()) < 15


def test_a_perfect_translation_scores_zero_and_a_wrong_note_is_far(pitch):
    metric = SpectralDistance()
    metric.update(outcome())
    values = metric.compute()
    assert float(values["lsd"]) == float(values["mcd"]) == 0
    assert float(values["lsd_untranslated"]) > 3 and float(values["lsd_retrieved"]) > 3
    found = pitch.compute()
    assert float(found["pitch_cents"]) < 4 and float(found["pitch_cents_floor"]) < 4
    assert float(found["audible_within_50"]) == float(found["pitch_within_50_untranslated"]) == 1
    octaves = NOTES["flute"].split("test").draw(torch.arange(12), None).label[:, 0].double()
    wrong = 1200 * float((octaves.roll(1) - octaves).abs().median())
    for name in ("pitch_cents_retrieved", "audible_cents_retrieved"):
        assert float(found[name]) == pytest.approx(wrong, abs=25)


def test_every_number_stands_under_its_own_name():
    """Offsets of 2, 4 and 7 dB: distances by their size, no distortion, and no other point taken for the partner."""
    m, x = LogMel(), 2 + 0.3 * A[:, None].float()
    metric = SpectralDistance()
    metric.update(
        outcome_of(
            n=3,
            partner=x,
            result=x + 2 / m.std,
            source=Sample(x + 4 / m.std),
            target=Sample(-x),
            retrieved=x + 7 / m.std,
            modality=m,
        )
    )
    found = {k: round(float(v), 3) for k, v in metric.compute().items()}
    assert found == {
        "lsd": 2,
        "lsd_untranslated": 4,
        "lsd_retrieved": 7,
        "lsd_n": 3,
        "mcd": 0,
        "mcd_untranslated": 0,
        "mcd_retrieved": 0,
    }
    pitch = PitchError([Flute()])
    pitch.errors.append(torch.arange(11.0)[:, None] ** 2 + 10 * torch.arange(8))
    with pytest.warns(UserWarning, match="before the ``update``"):
        found = pitch.compute()
    for k, how in enumerate(("pitch", "audible")):
        for j, which in enumerate(("", "_floor", "_untranslated", "_retrieved")):
            offset = 10 * (4 * k + j)
            assert float(found[f"{how}_cents{which}"]) == 25 + offset
            assert float(found[f"{how}_cents_p90{which}"]) == 81 + offset
            within = sum(v * v + offset <= 50 for v in range(11)) / 11
            assert float(found[f"{how}_within_50{which}"]) == pytest.approx(within)


def test_a_profile_forgets_loudness_and_silence():
    loud = 5 * A - 20
    torch.testing.assert_close(_profile(loud + 7), _profile(loud))
    silent = torch.cat([loud, torch.full((3, 64, 10), -70.0)], 2)
    torch.testing.assert_close(_profile(silent), _profile(loud), atol=1e-3, rtol=0)


def test_what_they_need_is_said():
    flute, brass = NOTES["flute"], NOTES["brass"]
    for metric in (SpectralDistance(), PitchError([Flute()])):
        metric.check(flute, brass)
        with pytest.raises(FlowportError, match="is for sound as LogMel, but the target is Image"):
            metric.check(flute, Digits())
    with pytest.raises(FlowportError, match="true partner"):
        SpectralDistance().check(Digits(), brass)
    with pytest.raises(FlowportError, match="label is their pitch"):
        PitchError([Flute()]).check(Digits(), brass)
    assert not Digits().corresponds(Digits())
    # One number as a label is not yet a pitch, and a clip can be too short to have one.
    loudness = Stored("loudness", brass.raw, brass.labels, LogMel(), brass.splits)
    for sides in ((loudness, brass), (brass, loudness)):
        with pytest.raises(FlowportError, match="label is their pitch"):
            PitchError([Flute()]).check(*sides)
    short = copy(brass)
    short.event_shape = (1, 64, 7)
    with pytest.raises(FlowportError, match="listens to 2048 samples, but a clip has 1792"):
        PitchError([Flute()]).check(flute, short)
