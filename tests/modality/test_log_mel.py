"""Sound to spectrogram and back: levels in closed form, librosa beside it, and what the inversion keeps."""

import math

import pytest
import torch

from flowport.errors import FlowportError
from flowport.metric.sound import autocorrelation_pitch
from flowport.modality import LogMel
from flowport.modality.log_mel import mel, mel_filters

RATE, SAMPLES = 8000, 8192
SECONDS = torch.arange(SAMPLES, dtype=torch.float64) / RATE


def sine(hertz: float, amplitude: float = 0.5) -> torch.Tensor:
    return (32767 * amplitude * (2 * math.pi * hertz * SECONDS).sin()).round().to(torch.int16)[None]


def noise(n: int = 3) -> torch.Tensor:
    wave = torch.randn(n, SAMPLES, generator=torch.Generator().manual_seed(1))
    return (3000 * wave).clamp(-32767, 32767).to(torch.int16)


def test_a_sine_of_amplitude_one_has_zero_decibels():
    m, bin_width = LogMel(), RATE / 1024
    power = m.spectrum(sine(100 * bin_width, 1.0) / 32768).abs().square()[:, :, 4:-4] * m.gain
    assert float(power.amax(1).log10().abs().max()) * 10 < 1e-3
    assert power.amax(2)[0].argmax() == 100


def test_twice_the_amplitude_is_six_decibels_and_nothing_is_the_floor():
    m = LogMel()
    loud, soft = (m.decibels(m.encode(sine(440, a), None)) for a in (0.8, 0.4))
    heard = soft > -40
    torch.testing.assert_close(
        (loud - soft)[heard], torch.full((int(heard.sum()),), 20 * math.log10(2)), atol=1e-2, rtol=0
    )
    silence = m.encode(torch.zeros(1, SAMPLES, dtype=torch.int16), None)
    torch.testing.assert_close(m.decibels(silence), torch.full((1, 64, 32), -70.0))
    assert silence.shape == (1, 1, 64, 32)
    torch.testing.assert_close(m.decibels(silence - 3), torch.full((1, 64, 32), -70.0))


def test_the_triangles_share_every_frequency_between_the_outer_peaks():
    filters = mel_filters(40, 513, RATE, 60, 4000)
    at = torch.linspace(0, RATE / 2, 513, dtype=torch.float64)
    corners = 700 * (
        10 ** (torch.linspace(float(mel(torch.tensor(60.0))), float(mel(torch.tensor(4000.0))), 42) / 2595) - 1
    )
    inside = (at >= corners[1]) & (at <= corners[-2])
    torch.testing.assert_close(
        filters.sum(0)[inside], torch.ones(int(inside.sum()), dtype=torch.float64), atol=1e-4, rtol=0
    )
    assert float(filters[:, at < 59].sum()) == 0


def test_it_agrees_with_librosa():
    librosa = pytest.importorskip("librosa")
    m, raw = LogMel(), torch.cat([noise(), sine(440)])
    ours = mel_filters(64, 513, RATE, 60, 4000).numpy()
    theirs = librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=64, fmin=60, fmax=4000, htk=True, norm=None)
    assert abs(ours - theirs).max() < 1e-6
    power = librosa.feature.melspectrogram(
        y=(raw / 32768).numpy(),
        sr=RATE,
        n_fft=1024,
        hop_length=256,
        n_mels=64,
        fmin=60,
        fmax=4000,
        htk=True,
        norm=None,
        power=2.0,
        pad_mode="reflect",
    )
    decibels = 10 * torch.from_numpy(power[:, :, :32] * m.gain).clamp_min(1e-7).log10()
    assert float((m.decibels(m.encode(raw, None)) - decibels).abs().max()) < 1e-3
    assert float((m.encode(raw, None)[:, 0] - (decibels - m.mean) / m.std).abs().max()) < 1e-4


def test_a_batch_is_its_items():
    m, raw = LogMel(), noise(4)
    each = torch.cat([m.encode(one[None], None) for one in raw])
    torch.testing.assert_close(m.encode(raw, None), each, atol=1e-5, rtol=1e-5)


def test_a_click_is_heard_in_its_own_frame():
    click = torch.zeros(1, SAMPLES, dtype=torch.int16)
    click[0, 256 * 10] = 32767
    assert LogMel().encode(click, None)[0, 0].mean(0).argmax() == 10


def test_momentum_brings_griffin_lim_nearer_to_the_magnitudes(monkeypatch):
    m = LogMel()
    magnitude = m.spectrum(noise(2) / 32768).abs()[:, :, :32]

    def gap() -> float:
        found = m.spectrum(m.griffin_lim(magnitude, SAMPLES)).abs()[:, :, :32]
        return float((found - magnitude).norm() / magnitude.norm())

    fast = gap()
    monkeypatch.setattr("flowport.modality.log_mel.MOMENTUM", 0.0)
    assert fast < 0.95 * gap()


def test_the_spectrum_under_the_mels_has_these_mels():
    m = LogMel()
    x = m.encode(torch.cat([noise(2), sine(330), sine(1234, 0.1)]), None)
    again = m.normalised(m.filters @ m.linear(x) * m.gain)
    heard = m.decibels(x) > -50
    assert float((m.decibels(again) - m.decibels(x))[heard].abs().median()) < 0.1
    assert bool((m.linear(x) >= 0).all())


@pytest.mark.parametrize("hertz", [233.1, 440.0, 777.7])
def test_what_is_heard_after_the_way_back_is_the_same_note(hertz):
    m = LogMel()
    stack = sum((sine(k * hertz, 0.3 / k) for k in range(1, 5)), torch.zeros(1, SAMPLES, dtype=torch.int16))
    wave = m.decode(m.encode(stack, None))
    assert wave.shape == stack.shape and wave.dtype == torch.int16
    cents = 1200 * (float(autocorrelation_pitch(wave / 32768, RATE)) - math.log2(hertz / 440))
    assert abs(cents) < 12
    level = 20 * math.log10(float(wave.float().norm() / stack.float().norm()))
    assert abs(level) < 1.5


def test_silence_stays_silent_and_the_way_back_is_reproducible():
    m = LogMel()
    nothing = m.decode(m.encode(torch.zeros(1, SAMPLES, dtype=torch.int16), None))
    assert int(nothing.abs().max()) == 0
    x = m.encode(noise(1), None)
    assert torch.equal(m.decode(x), m.decode(x))


def test_bad_settings_and_bad_waves_are_refused():
    with pytest.raises(FlowportError, match="lies between two bins"):
        LogMel(bands=400)
    with pytest.raises(FlowportError, match="must lie in order"):
        LogMel(high=5000)
    with pytest.raises(FlowportError, match="hop"):
        LogMel(hop=700)
    with pytest.raises(FlowportError, match="int16 waves"):
        LogMel().encode(torch.zeros(1, 8192), None)


def test_low_notes_stand_at_the_bottom_and_the_floor_is_black(monkeypatch, tmp_path):
    rows = {}
    monkeypatch.setattr(
        "flowport.modality.spectrogram.draw", lambda given, path, tile: rows.update(given) or torch.empty(0)
    )
    decibels = torch.full((1, 64, 5), -70.0)
    decibels[:, 0] = 0.0
    LogMel().render({"bass": LogMel().normalised(10 ** (decibels / 10))}, str(tmp_path / "bass.png"))
    brightness = rows["bass"][0].mean((0, 2))
    assert brightness.argmax() == 63 and float(brightness[63]) > 0.8 and float(brightness[:63].max()) < 0.02


def test_a_picture_of_sound(tmp_path):
    m = LogMel()
    picture = m.render({"sine": m.encode(sine(440), None), "noise": m.encode(noise(), None)}, str(tmp_path / "a.png"))
    assert picture.dtype == torch.uint8 and picture.shape[0] == 3
    assert (tmp_path / "a.png").stat().st_size > 0
