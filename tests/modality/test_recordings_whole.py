"""Whole recordings: cut into pieces, joined without seams, at their level and without clipping."""

import pytest
import torch

from flowport.modality import ComplexSTFT, LogMel

MEL, STFT = LogMel(window=256, hop=64, bands=24), ComplexSTFT(window=256, hop=64)


def noise(n: int, level: float = 0.1) -> torch.Tensor:
    return (32767 * level * torch.randn(n, generator=torch.Generator().manual_seed(n))).clamp(-32767, 32767).short()


@pytest.mark.parametrize("modality", [MEL, STFT], ids=["mel", "stft"])
@pytest.mark.parametrize("length", [1, 700, 2048, 2049, 5000, 20480])
def test_pieces_that_are_not_changed_join_to_the_recording(modality, length):
    wave = noise(length)
    pieces, lengths = modality.cut(wave, 2048)
    assert pieces.shape[1] == 2048 and int(lengths[0]) == min(length, 2048) and int(lengths.min()) > 0
    joined = modality.joined(modality.encode(pieces, None))
    assert joined.shape[3] * modality.hop >= length
    whole = torch.nn.functional.pad(wave, (0, joined.shape[3] * modality.hop - length))
    direct, inside = modality.encode(whole[None], None), slice(4, length // modality.hop - 4)
    shifted = (joined - direct)[..., inside].abs()
    assert shifted.numel() == 0 or float(shifted.median()) < 1e-4, "away from the ends of pieces"
    if modality is STFT and length > 700:
        heard = modality.recording(joined)[0, :length].float()
        assert float((heard - wave).abs().median()) <= 40, "of 3,277"


def test_weights_of_a_join_add_up_to_one():
    x = torch.ones(5, 1, 24, 32) * torch.arange(5).view(5, 1, 1, 1)
    joined = MEL.joined(x)[0, 0, 0]
    assert joined.shape == (4 * 16 + 32,) and float(joined[0]) == 0 and float(joined[-1]) == 4
    assert bool((joined.diff() >= 0).all()), "from one piece to the next without a jump"
    assert float(joined.diff().max()) < 0.11
    assert torch.equal(MEL.joined(x[:1])[0], x[0])


@pytest.mark.parametrize("level", [0.01, 0.1])
def test_a_decoded_wave_has_the_level_of_its_spectrogram(level):
    wave = noise(16384, level)
    x = MEL.encode(wave[None], None)
    heard = MEL.encode((32768 * MEL.waves(x)).round().short(), None)
    powers = [10 ** (MEL.decibels(points) / 10) for points in (x, heard)]
    ratio = 10 * (powers[1].sum() / powers[0].sum()).log10()
    assert abs(float(ratio)) < 0.1


def test_loud_recordings_are_scaled_as_a_whole_and_quiet_ones_left():
    loud, quiet = (STFT.encode(noise(4096, level)[None], None) for level in (0.9, 0.05))
    waves = STFT.waves(torch.cat([3 * loud, quiet]))
    made = STFT.recording(torch.cat([3 * loud, quiet])).float() / 32767
    assert float(made[0].abs().max()) == pytest.approx(0.98, abs=1e-3)
    torch.testing.assert_close(made[0] / made[0].abs().max(), waves[0] / waves[0].abs().max(), atol=1e-3, rtol=0)
    torch.testing.assert_close(made[1], waves[1], atol=1e-4, rtol=0)
