"""Recordings longer and shorter than a point: random pieces of the sound, silence behind it, and a mask of it."""

from copy import copy

import numpy as np
import pytest
import soundfile
import torch

from flowport.coupling import ExactCoupling, IndependentCoupling
from flowport.data.pairing import PairedPairing, UnpairedPairing
from flowport.data.stream import PairStream
from flowport.distribution import AudioFolder
from flowport.errors import FlowportError
from flowport.modality import ComplexSTFT, LogMel
from flowport.randomness import Randomness
from flowport.training.compose import compose

SAMPLES, STORED, HOP, RANDOM = 512, 2048, 64, Randomness(0)
LENGTHS = [300, 515, 2048, 2 * 2048 + 700, 129, 1000, *[600, 192] * 7]
"""Samples of every recording: shorter than a point, by three longer, an item, two items and a rest, …"""
MEL = LogMel(window=256, hop=HOP, bands=16)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("flowport.distribution.folder.CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """Sample n of recording k is 1000 + n, so that a piece tells where it comes from; the last 100 are silent."""
    (tmp_path / "r").mkdir()
    for k, length in enumerate(LENGTHS):
        wave = (1000 + np.arange(length)).astype(np.int16)
        wave[-100:] = 0
        soundfile.write(tmp_path / "r" / f"{k:02}.wav", wave, 8000, subtype="PCM_16")
    return str(tmp_path / "r")


def lengths(data):
    return torch.tensor([min(STORED, length - k) for length in LENGTHS for k in range(0, length, STORED)])


def test_training_hears_any_piece_of_the_sound_and_evaluation_the_first(folder):
    data = AudioFolder(folder, SAMPLES, STORED, modality=MEL)
    assert data.raw.shape == (22, STORED) and data.event_shape == (1, 16, SAMPLES // HOP)
    assert data.length.tolist() == lengths(data).tolist(), "silence of the recording's own is no padding"
    every = torch.arange(22)
    first, mask = data.taken(every, None)
    assert torch.equal(first, data.raw[:, :SAMPLES]) and mask is None
    many = torch.full((4000,), 1)  # 515 samples: pieces may begin at 0, 1, 2 and 3
    pieces, _ = data.taken(many, torch.Generator().manual_seed(0))
    starts = pieces[:, 0].long() - 1000
    share = starts.bincount(minlength=4) / 4000
    assert len(share) == 4 and float((share - 0.25).abs().max()) < 4.5 * (0.25 * 0.75 / 4000) ** 0.5
    for start in range(4):
        assert torch.equal(pieces[starts == start][0], data.raw[1, start : start + SAMPLES])
    short, _ = data.taken(torch.tensor([0, 6]), torch.Generator().manual_seed(0))
    assert torch.equal(short, data.raw[[0, 6], :SAMPLES]) and int(short[1, 129:].abs().max()) == 0
    again = [data.items(7, 9, RANDOM).x for _ in range(2)]
    assert torch.equal(*again) and not torch.equal(again[0], data.items(7, 9, Randomness(1)).x)
    ends, _ = data.taken(torch.full((20_000,), 2), torch.Generator().manual_seed(0))
    assert [int(ends[:, 0].min()), int(ends[:, 0].max())] == [1000, 1000 + STORED - SAMPLES], (
        "up to the end of the item"
    )


@pytest.mark.parametrize("modality", [MEL, ComplexSTFT(window=256, hop=HOP)], ids=["log_mel", "stft"])
def test_the_mask_is_the_sound(folder, modality):
    data = AudioFolder(folder, SAMPLES, STORED, mask_padding=True, modality=modality)
    wanted = torch.arange(SAMPLES // HOP) * HOP < data.length[data.index][:, None]
    assert int((~wanted).sum()) > 0, "some are padded"
    for generator in (None, torch.Generator().manual_seed(3)):  # no piece of a long recording leaves its sound
        sample = data.draw(torch.arange(data.size), generator)
        assert sample.mask.shape == sample.x.shape and sample.mask.dtype == torch.bool
        assert torch.equal(sample.mask, wanted[:, None, None].expand_as(sample.x))
    assert data.draw(torch.tensor([3]), None)[:1].mask.shape == (1, *data.event_shape)
    assert data.to("meta").length.device.type == "meta", "lengths travel with their sound"
    moved = data.to("cpu").split("test")
    assert torch.equal(moved.every(9, RANDOM).mask, data.split("test").every(9, RANDOM).mask)
    assert AudioFolder(folder, SAMPLES, modality=modality).draw(torch.arange(3), None).mask is None


def test_without_stored_nothing_is_drawn(folder):
    data = AudioFolder(folder, SAMPLES, modality=MEL)
    assert len(data.raw) == sum(-(-n // SAMPLES) for n in LENGTHS) and not data.crops
    noise = torch.Generator().manual_seed(5)
    before = noise.get_state()
    assert torch.equal(data.taken(torch.arange(9), noise)[0], data.raw[:9]) and torch.equal(noise.get_state(), before)


@pytest.mark.parametrize("pool", [1, 2, "all"])
@pytest.mark.parametrize("coupling", [IndependentCoupling(), ExactCoupling()])
def test_masks_travel_with_their_points(folder, coupling, pool):
    data = AudioFolder(folder, SAMPLES, mask_padding=True, modality=MEL)
    other = copy(data)
    other.raw, other.length = data.raw.flip(0), data.length.flip(0)
    stream = PairStream(UnpairedPairing(data, other), coupling, RANDOM, 5, pool)
    whole = []
    for step in range(3):
        pair = stream.at(step).to("cpu")
        for side, owner in ((pair.source, data), (pair.target, other)):
            again = owner.draw(side.id, None)
            assert torch.equal(side.x, again.x) and torch.equal(side.mask, again.mask)
        assert torch.equal(pair.mask, pair.source.mask & pair.target.mask)
        whole.append(bool(pair.mask.all()))
        rows = torch.tensor([4, 0])
        assert torch.equal(pair.take(rows, rows.flip(0)).mask, pair.source.mask[[4, 0]] & pair.target.mask[[0, 4]])
    assert not all(whole), "there is padding; which batches have it depends on the processor where a coupling has ties"


def test_training_and_validation_leave_padding_out(folder):
    data = AudioFolder(folder, SAMPLES, mask_padding=True, modality=MEL)
    flow, pairs = compose(data, data, coupling=IndependentCoupling(), seed=0)
    noise = lambda: torch.Generator().manual_seed(0)
    for part in ("train", "validation"):
        pairing = pairs.pairing.split(part)
        pair = PairStream(pairing, IndependentCoupling(), RANDOM, 8).at(0)
        assert not bool(pair.mask.all())
        loss = flow.objective.loss(flow.field, pair, noise()).mean
        plain = flow.objective.loss(
            flow.field, type(pair)(*(type(s)(s.x) for s in (pair.source, pair.target))), noise()
        )
        torch.testing.assert_close(loss, plain.terms[pair.mask].mean())
        assert abs(float((loss - plain.mean).detach())) > 1e-4


def test_what_cannot_be_is_refused(folder):
    with pytest.raises(FlowportError, match="samples ≤ stored"):
        AudioFolder(folder, 1024, 512, modality=MEL)
    long, plain = AudioFolder(folder, SAMPLES, STORED, modality=MEL), AudioFolder(folder, SAMPLES, modality=MEL)
    with pytest.raises(FlowportError, match="same piece of both sides"):
        PairedPairing(long, long)
    assert len(PairedPairing(plain, plain).pairs(0, 3, RANDOM)) == 3
