"""Synthetic notes: the same score is the same notes, and harmonics have the amplitudes that were written."""

from dataclasses import dataclass, replace

import pytest
import torch

from flowport.distribution import Brass, Flute, Notes
from flowport.distribution.instrument import ONSET, Instrument, NoteSequence, Voice
from flowport.errors import FlowportError
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
    score = NoteSequence.written(5, Randomness(3))
    first, again = (Brass().play(score, 8000, 4096, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert int(BRASS.raw.abs().max()) < 32767, "clipped"


def note(pitch: float, loudness: float = 0.0, duration: float = 0.9) -> NoteSequence:
    return NoteSequence(*(torch.tensor([v]).double() for v in (pitch, loudness, duration)))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


SECONDS = torch.arange(8192).double() / 8000


def test_a_score_is_uniform_in_octaves_decibels_and_seconds():
    score = NoteSequence.written(2000, Randomness(0))
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


def many(player: Instrument, n: int = 400, samples: int = 2000) -> Voice:
    return player.voice(
        NoteSequence(*(torch.full((n,), v).double() for v in (440.0, 0.0, 0.6))), SECONDS[:samples], seeded()
    )


def passes(rising: torch.Tensor, level: float) -> torch.Tensor:
    """Seconds after the onset at which every row first reaches a level."""
    return SECONDS[(rising >= level).double().argmax(1)] - ONSET


@pytest.mark.parametrize(("player", "low", "high"), [(Flute(), 0.08, 0.12), (Brass(), 0.025, 0.045)])
def test_attacks_are_uniform_between_their_ends(player, low, high):
    """Half a cosine is at a half in the middle of the attack."""
    share = (2 * passes(many(player).envelope, 0.5) - low) / (high - low)
    assert -0.001 <= float(share.min()) < 0.02 and 0.98 < float(share.max()) < 1.02
    assert abs(float(share.mean()) - 0.5) < 5 * 0.289 / 400**0.5 + 0.01


def test_brass_takes_two_attacks_to_its_pitch():
    voice = many(Brass())
    rise = passes(1200 * (voice.frequency / 440).log2(), -20.0)
    torch.testing.assert_close(rise, 2 * passes(voice.envelope, 0.5), atol=3 / 8000, rtol=0)


def test_the_flutes_harmonics_differ_from_note_to_note_by_a_decibel():
    """Normal, independent of each other, around 1, 0.35, 0.12 and 0.05; and every note begins to sway elsewhere."""
    voice = many(Flute(), 2000, 1)
    found = 20 * torch.cat(voice.amplitudes, 1).double().log10()
    found = found - 20 * torch.tensor([1.0, 0.35, 0.12, 0.05]).double().log10()
    assert float(found.mean(0).abs().max()) < 5 / 2000**0.5
    assert float((found.T.cov() - torch.eye(4)).abs().max()) < 5 * (2 / 2000) ** 0.5
    above = (voice.frequency[:, 0] > 440).double()
    assert abs(float(above.mean()) - 0.5) < 5 * 0.5 / 2000**0.5


def test_the_flutes_breath_is_a_fiftieth():
    """White: of 0.02 of the loudest, half of the power lies above 2000 Hz, where a note of 220 Hz has no harmonic."""
    wave = Flute().play(note(220.0), 8000, 8192, seeded())[0, 1600:6600].double()
    spectrum = torch.fft.rfft(wave * torch.hann_window(5000, dtype=torch.float64)).abs().square()[1251:-1]
    deviation = (2 * spectrum.sum() / 5000 / (5000 * 0.375) * 2).sqrt()
    assert float(deviation) == pytest.approx(0.02 * 0.25 * 32767, rel=0.06)


class Siren(Instrument):
    """One harmonic that rises from 200 Hz by 300 Hz a second."""

    def voice(self, score: NoteSequence, seconds: torch.Tensor, generator: torch.Generator) -> Voice:
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
    level = 0.25 * 32767 / 2**0.5 * 10 ** (loudness / 20)
    assert float(steady.square().mean().sqrt()) == pytest.approx(level, rel=1e-3), "Σ a_k² = 1"
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

    def voice(self, score: NoteSequence, seconds: torch.Tensor, generator: torch.Generator) -> Voice:
        shape = len(score), len(seconds)
        return Voice(torch.ones(shape), torch.ones(shape), [torch.zeros(len(score), 1)], breath=1.0)


def test_every_note_has_a_breath_of_its_own():
    x = Notes(Hiss(), train=260).raw[:, :60].double()
    alike = torch.corrcoef(x).fill_diagonal_(0)
    assert len(x) == 760 and float(alike.max()) < 0.8


def test_the_judge_knows_the_instruments():
    judge = BRASS.classifier_dataset()
    assert torch.equal(OTHER.classifier_dataset().raw, judge.raw), "one judge for every score"
    assert judge.classes == 2 and judge.size == 40 and judge.split("test").size == 800
    drawn = judge.draw(torch.arange(40), None)
    assert drawn.label.tolist() == [0] * 20 + [1] * 20
    assert torch.equal(drawn.x[20:], BRASS.draw(torch.arange(20), None).x)


def test_too_few_notes_are_refused():
    with pytest.raises(FlowportError, match="at least 10"):
        Notes(Flute(), train=3)


@dataclass(frozen=True)
class Muted(Instrument):
    """A flute whose envelope is multiplied by a share."""

    share: float = 1.0

    def voice(self, score: NoteSequence, seconds: torch.Tensor, generator: torch.Generator) -> Voice:
        voice = Flute().voice(score, seconds, generator)
        return replace(voice, envelope=self.share * voice.envelope)


def test_the_options_of_an_instrument_are_heard():
    loud, quiet = (Notes(Muted(share), train=10).raw.float().square().mean().sqrt() for share in (1.0, 0.25))
    assert 0.2 < float(quiet / loud) < 0.4
