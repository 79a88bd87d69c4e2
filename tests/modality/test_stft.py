"""The complex spectrum: exact both ways, Parseval, sines in closed form, scipy beside it."""

import math

import pytest
import torch
from scipy.signal import stft

from flowport.distribution import Flute, Notes
from flowport.errors import FlowportError
from flowport.modality import ComplexSTFT
from flowport.modality.spectrogram import colours

RATE, SAMPLES, AMPLITUDE = 8000, 4096, 0.5
SETTINGS = [{}, {"hop": 256}, {"window": 256, "hop": 64}, {"power": 1.0}, {"power": 0.3}, {"scale": 2.0}]


def waves(n: int = 3) -> torch.Tensor:
    """Noise over the whole range of int16, its two ends among it."""
    noise = torch.randint(-32768, 32768, (n, SAMPLES), generator=torch.Generator().manual_seed(1)).to(torch.int16)
    noise[0, :2] = torch.tensor([-32768, 32767])
    return noise


def sine(bin_: int, phase: float = 0.0, amplitude: float = AMPLITUDE, m: ComplexSTFT | None = None) -> torch.Tensor:
    at = torch.arange(SAMPLES, dtype=torch.float64)
    angle = 2 * math.pi * bin_ / (m or ComplexSTFT()).window * at + phase
    return (32768 * amplitude * angle.cos()).round().to(torch.int16)[None]


def linear(x: torch.Tensor, m: ComplexSTFT) -> torch.Tensor:
    """What the compression took, put back by its own formula: complex (n, bins, frames), a unit sine 1."""
    x = x.double() * m.scale
    z = torch.complex(*x.unbind(1))
    whole = torch.polar(z.abs() ** (1 / m.power), z.angle())
    whole[:, 0] = torch.complex(*(x.sign() * x.abs() ** (1 / m.power))[:, :, 0].unbind(1))  # each by itself
    return whole


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_every_wave_comes_back_to_the_last_bit(options):
    m = ComplexSTFT(**options)
    raw = torch.cat(
        [waves(), sine(40), sine(0), torch.zeros(1, SAMPLES, dtype=torch.int16), torch.eye(3, SAMPLES).mul(9).short()]
    )
    x = m.encode(raw, None)
    assert x.shape == (len(raw), 2, m.window // 2, SAMPLES // m.hop) and x.dtype == torch.float32
    assert torch.equal(m.decode(x), raw)
    assert torch.equal(m.sound(x).waves, raw) and m.sound(x).rate == RATE


@pytest.mark.parametrize("phase", [0.0, 0.7, -2.0])
def test_a_sine_is_three_bins_of_known_height_and_phase(phase):
    """A cos(ωn + φ), ω = 2πk/N: S_k = A e^{i(φ + ωs)} in a frame that begins at sample s, S_{k±1} = −S_k/2, else 0."""
    m, k = ComplexSTFT(), 40
    inside = slice(4, -4)  # frames that see no border
    z = linear(m.encode(sine(k, phase), None), m)[0, :, inside]
    begins = torch.arange(SAMPLES // m.hop)[inside] * m.hop - (m.window - m.hop) // 2
    wanted = torch.zeros_like(z)
    wanted[k] = torch.polar(torch.full_like(z.real[0], AMPLITUDE), phase + 2 * math.pi * k / m.window * begins.double())
    wanted[k - 1] = wanted[k + 1] = -wanted[k] / 2
    torch.testing.assert_close(z, wanted, atol=2e-5, rtol=0)  # int16 rounds
    x = m.encode(sine(k, phase), None)[0, :, k, inside]
    torch.testing.assert_close(x.norm(dim=0), torch.full_like(x[0], AMPLITUDE**m.power / m.scale), atol=0, rtol=1e-5)


def test_what_is_real_shares_the_lowest_row():
    """The constant and the fastest wave have no phase: one lies in the real part of row 0, the other in the imaginary,
    so that no bin is left out."""
    m = ComplexSTFT(power=1.0, scale=1.0)
    constant = m.encode(sine(0), None)[0, :, :, 4:-4]
    fastest = m.encode(sine(m.window // 2, m=m), None)[0, :, :, 4:-4]
    for x, part in ((constant, 0), (fastest, 1)):
        torch.testing.assert_close(x[part, 0].abs(), torch.full_like(x[0, 0], 2 * AMPLITUDE), atol=1e-4, rtol=0)
        assert float(x[1 - part, 0].abs().max()) < 1e-4


def test_parseval():
    """Σ over frames and both sides of the spectrum |S|² gain⁻² = N Σ_n x_n² Σ_frames w_{n−s}²; for a quarter's hop of a
    Hann window the last sum is 3/2 for every sample that all its frames hold."""
    m = ComplexSTFT()
    wave = waves(1)
    wave[:, : m.window] = wave[:, -m.window :] = 0
    z = linear(m.encode(wave, None), m) * m.window / 4
    both = 2 * z[:, 1:].abs().square().sum() + z[:, 0].real.square().sum() + z[:, 0].imag.square().sum()
    energy = 1.5 * m.window * (wave.double() / 32768).square().sum()
    assert float(both) == pytest.approx(float(energy), rel=1e-5)


def test_a_delay_turns_the_phase_and_a_delay_by_a_hop_is_one_frame():
    m, k, delay = ComplexSTFT(), 40, 7
    late, early = (
        linear(m.encode(sine(k, phase), None), m)[0, k, 4:-4] for phase in (-2 * math.pi * k / m.window * delay, 0.0)
    )
    turned = early * torch.polar(torch.ones(1).double(), torch.tensor([-2 * math.pi * k / m.window * delay]).double())
    torch.testing.assert_close(late, turned, atol=2e-5, rtol=0)
    raw = waves(2)
    a, b = m.encode(raw, None), m.encode(raw.roll(m.hop, 1), None)
    torch.testing.assert_close(b[..., 5:-4], a[..., 4:-5], atol=1e-5, rtol=0)


def test_power_compresses_the_magnitude_and_leaves_the_phase():
    raw = (waves(2) // 16).to(torch.int16)
    for power in (0.5, 1.0):
        m = ComplexSTFT(power=power)
        soft, loud = m.encode(raw, None), m.encode(raw * 16, None)
        torch.testing.assert_close(loud, 16**power * soft, atol=1e-5, rtol=1e-5)
    roots, plain = (torch.complex(*ComplexSTFT(power=p).encode(raw, None)[:, :, 1:].unbind(1)) for p in (0.5, 1.0))
    heard = plain.abs() > 1e-3
    assert float((roots / plain)[heard].angle().abs().max()) < 1e-4
    m = ComplexSTFT(power=1.0)
    torch.testing.assert_close(
        m.encode(raw[:1] + raw[1:], None), m.encode(raw[:1], None) + m.encode(raw[1:], None), atol=1e-5, rtol=1e-5
    )


def test_it_agrees_with_scipy():
    m, raw = ComplexSTFT(), waves()
    side = (m.window - m.hop) // 2
    padded = torch.nn.functional.pad(raw.double() / 32768, (side, side)).numpy()
    theirs = torch.from_numpy(
        stft(padded, window="hann", nperseg=m.window, noverlap=m.window - m.hop, boundary=None, padded=False)[2]
    )
    theirs = 2 * theirs  # scipy gives a unit sine the height ½
    ours = linear(m.encode(raw, None), m)
    assert float((ours[:, 1:] - theirs[:, 1:-1]).abs().max()) < 1e-5
    x, packed = m.encode(raw, None)[:, :, 0] * m.scale, torch.stack([theirs[:, 0].real, theirs[:, -1].real], 1)
    torch.testing.assert_close(x.double(), packed.sign() * packed.abs() ** m.power, atol=1e-4, rtol=0)


def test_a_batch_is_its_items_and_coordinates_are_about_one():
    m, raw = ComplexSTFT(), waves(4)
    torch.testing.assert_close(
        m.encode(raw, None), torch.cat([m.encode(w[None], None) for w in raw]), atol=1e-6, rtol=0
    )
    notes = Notes(Flute(), train=16, modality=ComplexSTFT())
    assert 0.5 < float(notes.draw(torch.arange(16), None).x.square().mean().sqrt()) < 2


def test_decibels_are_those_of_the_magnitude_and_are_drawn(tmp_path):
    m = ComplexSTFT()
    x = m.encode(torch.cat([sine(40), sine(40, amplitude=0.05)]), None)
    peak = m.decibels(x)[:, 40, 4:-4]
    torch.testing.assert_close(peak[0], torch.full_like(peak[0], 20 * math.log10(0.5)), atol=1e-2, rtol=0)
    torch.testing.assert_close(peak[0] - peak[1], torch.full_like(peak[0], 20.0), atol=2e-2, rtol=0)
    assert float(m.decibels(torch.zeros(1, 2, 256, 32)).max()) == m.floor_db
    picture = m.render({"sines": x, "noise": m.encode(waves(), None)}, str(tmp_path / "a.png"))
    assert picture.dtype == torch.uint8 and (tmp_path / "a.png").stat().st_size > 0
    shown = colours(torch.tensor([-80.0, -70.0, 0.0, 5.0, torch.nan]).view(1, 5, 1), -70.0)[0, :, :, 0]
    assert torch.equal(shown[:, 4], shown[:, 3]) and torch.equal(shown[:, 1], shown[:, 2]), "low notes at the bottom"
    assert bool(shown[:, 0].isnan().all())


def test_bad_settings_and_bad_waves_are_refused():
    for options, words in (
        ({"hop": 300}, "hop"),
        ({"window": 511}, "window"),
        ({"power": 0.0}, "power"),
        ({"power": 1.5}, "power"),
        ({"scale": 0.0}, "scale"),
        ({"hop": 65}, "even"),
    ):
        with pytest.raises(FlowportError, match=words):
            ComplexSTFT(**options)
    with pytest.raises(FlowportError, match="int16 waves"):
        ComplexSTFT().encode(torch.zeros(1, 8192), None)
    with pytest.raises(FlowportError, match=r"a multiple of modality\.hop=128"):
        ComplexSTFT().encode(torch.zeros(1, 8000, dtype=torch.int16), None)
