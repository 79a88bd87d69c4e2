"""Synthetic notes: the same score is the same notes, and harmonics have the amplitudes that were written."""

import pytest
import torch

from flowport.distribution import Brass, Flute, Notes
from flowport.distribution.instrument import Score
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


@pytest.mark.parametrize("loudness", [0.0, -6.0])
def test_harmonics_of_brass_fall_as_written(loudness):
    """In the steady part a_k/a_1 = e^{−(k−1)/b}, b = 2.5 + 3 (1 + L/12): read off by projection on 10 whole periods."""
    pitch, rate = 250.0, 8000
    score = Score(torch.tensor([pitch]).double(), torch.tensor([loudness]).double(), torch.tensor([0.9]).double())
    steady = Brass().play(score, rate, 8192, torch.Generator().manual_seed(0))[0, 3200:6400].double()
    spectrum = torch.fft.rfft(steady).abs()
    step = round(pitch * 3200 / rate)
    found = spectrum[step : 16 * step : step] / spectrum[step]
    wanted = (-torch.arange(15) / (2.5 + 3 * (1 + loudness / 12))).exp().double()
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)


def test_loudness_is_decibels():
    def level(loudness: float) -> float:
        score = Score(*(torch.tensor([v]).double() for v in (440.0, loudness, 0.9)))
        return float(Flute().play(score, 8000, 8192, torch.Generator().manual_seed(0)).double().norm())

    assert level(0.0) / level(-6.0) == pytest.approx(10 ** (6 / 20), rel=1e-3)


def test_the_judge_knows_the_instruments():
    judge = BRASS.judge()
    assert judge.classes == 2 and judge.size == 40 and judge.split("test").size == 800
    drawn = judge.draw(torch.arange(40), None)
    assert drawn.label.tolist() == [0] * 20 + [1] * 20
    assert torch.equal(drawn.x[20:], BRASS.draw(torch.arange(20), None).x)


def test_too_few_notes_are_refused():
    with pytest.raises(Refusal, match="at least 10"):
        Notes(Flute(), train=3)
