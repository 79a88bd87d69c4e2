"""Recordings of any rate, length and number of channels as pieces, and back to files."""

import numpy as np
import pytest
import soundfile
import torch

from flowport.distribution import SoundFiles
from flowport.distribution.files import Reading
from flowport.distribution.sound_files import OPPOSITE, PADDING, common_rate

TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"])
def test_formats(name, tmp_path):
    soundfile.write(tmp_path / name, TONE, 8000)
    wave = SoundFiles(8000).read(tmp_path / name).items[0]
    assert abs(len(wave) - 8000) < 1200, "mp3 pads"
    level = float(np.sqrt(np.square(wave / 32767.0).mean()))
    assert level == pytest.approx(0.5 / 2**0.5, rel=0.15)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_any_rate_keeps_its_length_and_pitch(rate, tmp_path):
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * rate) / rate)
    soundfile.write(tmp_path / "a.wav", wave, rate)
    items = SoundFiles(8000).read(tmp_path / "a.wav").items
    assert items.shape == (1, 24000)
    spectrum = np.abs(np.fft.rfft(items[0]))
    assert spectrum.argmax() == 3 * 440


def test_the_tail_of_a_recording_is_kept_and_padded(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE, 8000)
    items = SoundFiles(8000, 3000).read(tmp_path / "a.wav").items
    assert items.shape == (3, 3000) and (items == PADDING).sum() == 1000
    whole = SoundFiles(8000).read(tmp_path / "a.wav").items
    assert np.array_equal(items.reshape(-1)[:8000], whole[0])


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged(channels, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([TONE] + [0 * TONE] * (channels - 1), 1), 8000)
    reading = SoundFiles(8000).read(tmp_path / "a.wav")
    assert reading.note == "" and float(reading.items.max()) == pytest.approx(32767 * 0.5 / channels, rel=1e-2)


def test_opposite_channels_are_told_and_the_first_is_used(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([TONE, -TONE], 1), 8000)
    reading = SoundFiles(8000).read(tmp_path / "a.wav")
    assert reading.note == OPPOSITE and float(reading.items.max()) == pytest.approx(32767 * 0.5, rel=1e-2)


def test_recordings_of_a_lower_rate_are_told(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE, 8000)
    assert "lower sample rate than 16000 Hz" in SoundFiles(16000).read(tmp_path / "a.wav").note
    assert SoundFiles(8000).read(tmp_path / "a.wav").note == SoundFiles(4000).read(tmp_path / "a.wav").note == ""


def test_the_common_rate_is_that_of_most_files(tmp_path):
    for k, rate in enumerate((8000, 44100, 44100)):
        soundfile.write(tmp_path / f"{k}.wav", TONE, rate)
    (tmp_path / "3.wav").write_text("no sound")
    assert common_rate(sorted(tmp_path.iterdir())) == 44100
    assert common_rate([tmp_path / "3.wav"]) is None


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_written_recordings_are_read_again(suffix, tmp_path):
    raw = torch.from_numpy((32767 * TONE).astype(np.int16))
    SoundFiles(8000).write(raw, tmp_path / f"a{suffix}", suffix, Reading(raw.numpy()))
    again = SoundFiles(8000).read(tmp_path / f"a{suffix}").items[0]
    assert np.abs(again.astype(int) - raw.numpy()).max() <= 1
    assert SoundFiles().written(".mp3") == ".wav" and SoundFiles().written(suffix) == suffix
