"""Spoken words: the same bits again, one list for all voices, and no setting that is both trained on and held out."""

import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from flowport.distribution import Spoken, folder, spoken
from flowport.errors import FlowportError
from flowport.metric.sound import autocorrelation_pitch

SMALL = {"rates": [90, 150, 210], "pitches": [20, 40, 60, 80]}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("flowport.distribution.folder.CACHE", tmp_path / "cache")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(FlowportError, match=r"pip install 'flowport\[speech\]'"):
        Spoken("en-us", **SMALL)


def test_the_same_words_are_the_same_bits_and_are_kept(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    first = Spoken("en-us", **SMALL)
    monkeypatch.setattr(folder, "CACHE", tmp_path / "another")
    assert torch.equal(Spoken("en-us", **SMALL).raw, first.raw), "said again by another process"
    (kept,) = (tmp_path / "another").glob("*.safetensors")
    written = kept.stat().st_mtime_ns
    assert torch.equal(Spoken("en-us", **SMALL).raw, first.raw) and kept.stat().st_mtime_ns == written
    assert not torch.equal(Spoken("en-us+f3", **SMALL).raw, first.raw)
    assert first.raw.shape == (120, 8192) and first.raw.dtype == torch.int16 and first.event_shape == (1, 64, 32)


def test_rate_pitch_voice_and_word_are_heard():
    pytest.importorskip("espeakng_loader")
    voices = [Spoken(voice, **SMALL) for voice in ("en-us", "en-us+f3")]
    pitch = []
    for data in voices:
        loud = data.raw.abs() > 300
        length = (8192 - loud.flip(1).int().argmax(1)).view(3, 4, 10).double()
        ratio = float(length[0].sum() / length[2].sum())
        assert 1.9 < ratio < 2.5, "from 90 to 210 words a minute"
        heard = 440 * 2 ** autocorrelation_pitch(data.raw / 32768, 8000, 1024, lowest=60, octaves=2.5)
        by_pitch = heard.view(3, 4, 10).transpose(0, 1).flatten(1).median(1).values
        assert bool((by_pitch.diff() > 2).all()), by_pitch
        pitch.append(float(heard.median()))
        assert data.labels.tolist() == list(range(10)) * 12 and data.classes == 10
    assert 1.6 < pitch[1] / pitch[0] < 2.4, pitch


def test_voices_correspond_and_no_setting_is_both_trained_on_and_held_out():
    pytest.importorskip("espeakng_loader")
    low, high = (Spoken(v, half=h, **SMALL) for v, h in (("en-us", 0), ("en-us+f3", 1)))
    whole = Spoken("en-us+f3", **SMALL)

    def settings(data, part):
        return {data.job[int(i)][1:] for i in data.split(part).index}

    for part in ("validation", "test"):
        assert low.split(part).corresponds(high.split(part)) and not low.corresponds(high.split(part))
        for trained in (low, high, whole):
            assert not settings(trained, "train") & settings(low, part)
    assert not settings(low, "validation") & settings(low, "test")
    assert not settings(low, "train") & settings(high, "train") and not low.corresponds(high)
    assert settings(low, "train") | settings(high, "train") == settings(whole, "train")
    assert whole.corresponds(Spoken("en-us", **SMALL))
    assert not whole.corresponds(Spoken("en-us", rates=[90, 150, 200], pitches=SMALL["pitches"]))


@pytest.mark.parametrize("name", ["low", "high"])
def test_the_yaml_says_the_defaults(name):
    config = OmegaConf.load(Path(__file__).parents[2] / "configs" / "distribution" / f"voice_{name}.yaml")
    said = config.rates, config.pitches, config.words
    assert [tuple(v) for v in said] == [spoken.RATES, spoken.PITCHES, spoken.DIGITS] and config.half is None


def test_what_cannot_be_said_is_refused():
    for options, words in (
        ({"words": ["one", "one"]}, "2 different words"),
        ({"rates": [99]}, "10 different settings"),
        ({"pitches": [0, 50, 99, 120]}, r"0 … 99"),
        ({"half": 2}, "half is 2"),
    ):
        with pytest.raises(FlowportError, match=words):
            Spoken("en-us", **(SMALL | options))
    pytest.importorskip("espeakng_loader")
    with pytest.raises(FlowportError, match=r"'en-gb\+m3', which eSpeak NG does not know"):
        Spoken("en-gb+m3", **SMALL)
    with pytest.raises(FlowportError, match=r"holds 80, at which 'encyclopaedia' lasts .* s; 1\.024 s are kept"):
        Spoken("en-us", ["one", "encyclopaedia"], [80, 150, 200], [20, 40, 60, 80])
