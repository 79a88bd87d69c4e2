"""Synthetic notes: the same score is the same notes, and harmonics have the amplitudes that were written."""

import pytest
import torch

from flowport.distribution import Brass, Flute, Notes
from flowport.distribution.instrument import ONSET, Instrument, Score, Voice
from flowport.errors import Refusal
from flowport.randomness import Randomness

FLUTE, BRASS, OTHER = Notes(Flute(), train=20), Notes(Brass(), train=20), Notes(Brass(), score=1, train=20)


def test_one_score_is_one_set_of_notes_and_held_out_notes_are_those_of_every_score():
    assert FLUTE.corresponds(BRASS) and not FLUTE.corresponds(OTHER)
    for part in ("validation", "test"):
        assert FLUTE.split(part).corresponds(OTHER.split(part)) and not FLUTE.corresponds(BRASS.split(part))
    assert len(set(FLUTE.labels[:, 0].tolist()) & set(OTHER.labels[:20, 0].tolist())) == 0
    assert [FLUTE.split(p).size for p in ("train", "validation", "test")] == [20, 100, 400]
    assert not torch.equal(FLUTE.raw, BRASS.raw)


def test_the_same_score_sounds_the_same_again():
    score = Score.written(5, Randomness(3))
    first, again = (Brass().play(score, 8000, 4096, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert int(BRASS.raw.abs().max()) < 32767, "clipped"


def note(pitch: float, loudness: float = 0.0, duration: float = 0.9) -> Score:
    return Score(*(torch.tensor([v]).double() for v in (pitch, loudness, duration)))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


SECONDS = torch.arange(8192).double() / 8000


def test_a_score_is_uniform_in_octaves_decibels_and_seconds():
    score = Score.written(2000, Randomness(0))
    for share in ((score.pitch / 220).log2() / 2, -score.loudness / 12, (score.duration - 0.4) / 0.5):
        assert 0 <= float(share.min()) < 0.01 and 0.99 < float(share.max()) <= 1
        assert abs(float(share.mean()) - 0.5) < 5 * 0.289 / 2000**0.5


def cents(player: Instrument, seed: int = 0) -> torch.Tensor:
    voice = player.voice(note(440.0), SECONDS, torch.Generator().manual_seed(seed))
    return 1200 * (voice.frequency[0] / 440).log2()


def test_brass_rises_to_its_pitch_and_the_flute_sways_around_it():
    rise = cents(Brass())
    assert float(rise[0]) == pytest.approx(-40) and float(rise[-1]) == pytest.approx(0, abs=1e-9)
    assert bool((rise.diff() >= 0).all()) and float(rise[SECONDS < ONSET].max()) == pytest.approx(-40)
    assert float(rise[SECONDS > ONSET + 2 * 0.045].abs().max()) < 1e-9
    for seed in range(5):
        sway = cents(Flute(), seed)
        assert 9.9 < float(sway.max()) <= 25 and 9.9 < float(-sway.min()) <= 25
        crossings = int((sway.sign().diff() != 0).sum())
        assert int(2 * 4.5 * 1.024) <= crossings <= int(2 * 6 * 1.024) + 1


@pytest.mark.parametrize(("player", "attack"), [(Flute(), (0.08, 0.12)), (Brass(), (0.025, 0.045))])
def test_a_note_begins_rises_and_ends_when_written(player, attack):
    envelope = player.voice(note(440.0, duration=0.5), SECONDS, seeded()).envelope[0]
    assert float(envelope[SECONDS <= ONSET].max()) == 0 and float(envelope[SECONDS >= ONSET + 0.5].max()) == 0
    full = SECONDS[envelope > 1 - 1e-9]
    assert attack[0] <= float(full[0]) - ONSET <= attack[1] + 1e-3
    assert float(full[-1]) == pytest.approx(ONSET + 0.5 - 0.05, abs=1e-3)
    wave = player.play(note(440.0, duration=0.5), 8000, 8192, seeded())[0]
    assert int(wave[SECONDS >= ONSET + 0.5].abs().max()) == 0 < int(wave.abs().max())


class Siren(Instrument):
    """One harmonic that rises from 200 Hz by 300 Hz a second."""

    def voice(self, score: Score, seconds: torch.Tensor, generator: torch.Generator) -> Voice:
        return Voice((200 + 300 * seconds)[None], torch.ones(1, len(seconds)), [torch.ones(1, 1)])


def test_the_phase_is_the_integral_of_the_frequency():
    wave = Siren().play(note(440.0), 8000, 8192, seeded())[0] / 32767
    at = SECONDS + 1 / 8000  # the sum counts a sample at its end
    wanted = 0.25 * (2 * torch.pi * (200 * at + 150 * at * (at - 1 / 8000))).sin()
    torch.testing.assert_close(wave, wanted.float(), atol=1e-3, rtol=0)


def test_no_harmonic_folds_back():
    """Of 875 Hz the fifth, 4375, would be heard as 3625 Hz with half of the first one's amplitude."""
    steady = Brass().play(note(875.0), 8000, 8192, seeded())[0, 3200:6400].double()
    spectrum = torch.fft.rfft(steady).abs()
    first, folded = (float(spectrum[hertz * 3200 // 8000]) for hertz in (875, 3625))
    assert folded < 1e-3 * first


@pytest.mark.parametrize("loudness", [0.0, -6.0])
def test_harmonics_of_brass_fall_as_written(loudness):
    """In the steady part a_k/a_1 = e^{−(k−1)/b}, b = 2.5 + 3 (1 + L/12): read off by projection on 10 whole periods."""
    pitch, rate = 250.0, 8000
    steady = Brass().play(note(pitch, loudness), rate, 8192, seeded())[0, 3200:6400].double()
    spectrum = torch.fft.rfft(steady).abs()
    step = round(pitch * 3200 / rate)
    found = spectrum[step : 16 * step : step] / spectrum[step]
    wanted = (-torch.arange(15) / (2.5 + 3 * (1 + loudness / 12))).exp().double()
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)


def test_loudness_is_decibels():
    def level(loudness: float) -> float:
        return float(Flute().play(note(440.0, loudness), 8000, 8192, seeded()).double().norm())

    assert level(0.0) / level(-6.0) == pytest.approx(10 ** (6 / 20), rel=1e-3)


class Hiss(Instrument):
    """Nothing but breath."""

    def voice(self, score: Score, seconds: torch.Tensor, generator: torch.Generator) -> Voice:
        shape = len(score), len(seconds)
        return Voice(torch.ones(shape), torch.ones(shape), [torch.zeros(len(score), 1)], breath=1.0)


def test_every_note_has_a_breath_of_its_own():
    x = Notes(Hiss(), train=260).raw[:, :60].double()
    alike = torch.corrcoef(x).fill_diagonal_(0)
    assert len(x) == 760 and float(alike.max()) < 0.8


def test_the_judge_knows_the_instruments():
    judge = BRASS.judge()
    assert torch.equal(OTHER.judge().raw, judge.raw), "one judge for every score"
    assert judge.classes == 2 and judge.size == 40 and judge.split("test").size == 800
    drawn = judge.draw(torch.arange(40), None)
    assert drawn.label.tolist() == [0] * 20 + [1] * 20
    assert torch.equal(drawn.x[20:], BRASS.draw(torch.arange(20), None).x)


def test_too_few_notes_are_refused():
    with pytest.raises(Refusal, match="at least 10"):
        Notes(Flute(), train=3)
