"""Latent flows: an exact codec changes nothing that is measured, a trained one is a part of its run."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.data.space import RECIPE, DataSpace, LatentSpace, inside, trained_autoencoder
from flowport.distribution import EightGaussians, Gaussian, Stored
from flowport.errors import FlowportError
from flowport.evaluation.evaluator import Evaluator
from flowport.field import LearnedField
from flowport.modality import Image, LatentModality, LogMel
from flowport.modality.latent import Codec
from flowport.network.autoencoder import Autoencoder
from flowport.randomness import Randomness
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from flowport.sampling.grid import UniformGrid
from flowport.sampling.sampler import Sampler
from flowport.sampling.solver import Euler
from flowport.sampling.volatility import ZeroVolatility
from tests import runs

QUICK = replace(RECIPE, steps=150)


def blobs(n=120, seed=0, name="blobs", modality=None):
    """Smooth random pictures: what an autoencoder can learn in a moment."""
    coarse = torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    raw = F.interpolate(coarse, (8, 8), mode="bilinear", align_corners=True).mul(255).round().to(torch.uint8)
    parts = {"train": torch.arange(n - 40), "validation": torch.arange(n - 40, n - 20), "test": torch.arange(n - 20, n)}
    return Stored(name, raw, torch.arange(n) % 2, modality or Image(), parts, classes=2)


class Turned(Codec):
    """An orthogonal map of 2 x 2 pixels to 4 channels: exactly invertible, and it keeps every distance."""

    latent_shape = (4, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
        self.register_buffer("turn", turn)

    def encode(self, x: Tensor) -> Tensor:
        return torch.einsum("ij,njhw->nihw", self.turn, F.pixel_unshuffle(x, 2))

    def decode(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(torch.einsum("ji,njhw->nihw", self.turn, z), 2)


def test_an_exact_codec_is_the_identity_both_ways_and_keeps_distances():
    stored, latent = blobs(), LatentModality(Image(), Turned())
    z = latent.encode(stored.raw, None)
    assert z.shape == (120, 4, 4, 4)
    assert torch.equal(latent.decode(z), stored.raw)
    x = Image().encode(stored.raw, None)
    assert torch.allclose(latent.embedded(latent.observed(z)), z, atol=1e-5)
    assert torch.allclose((z[1:] - z[:-1]).flatten(1).norm(dim=1), (x[1:] - x[:-1]).flatten(1).norm(dim=1), atol=1e-4)


def test_metrics_see_real_images_and_decoded_translations():
    codec = Turned()
    source, target = blobs(seed=1), blobs(seed=2)
    sides = [inside(side, codec, side) for side in (source, target)]

    class Still(torch.nn.Module):
        heads = 1

        def forward(self, x: Tensor, t: Tensor, condition: object) -> Tensor:
            return torch.zeros_like(x)

    from flowport.training.compose import compose

    flow, _ = compose(*sides, network=lambda **_: Still(), seed=0)
    assert isinstance(flow.ema, LearnedField) and flow.codec is codec
    outcome = Evaluator(Sampler(Euler(), UniformGrid(steps=2), ZeroVolatility()), {}, 20).outcome(
        flow.ema, *sides, Randomness(0)
    )
    real = [Image().encode(side.raw[side.splits["test"]], None) for side in (source, target)]
    held_out = torch.cat([target.splits["test"], target.splits["validation"]])
    assert outcome.target.id is not None
    chosen = Image().encode(target.raw[held_out[outcome.target.id]], None)
    assert torch.equal(outcome.source.x, real[0]) and torch.equal(outcome.target.x, chosen)
    assert torch.allclose(outcome.result, real[0], atol=1e-5)  # a field that stands still
    assert outcome.states.shape[2:] == (4, 4, 4) and isinstance(outcome.modality, Image)


def test_a_trained_autoencoder_rebuilds_and_standardises_and_is_kept(tmp_path: Path):
    sides, before = [blobs(seed=3), blobs(seed=4, name="others")], torch.get_rng_state()
    codec, facts = trained_autoencoder(sides, 2, 8, QUICK, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert facts["autoencoder/unexplained"] < 0.2
    x = torch.cat([Image().encode(s.raw[s.splits["test"]], None) for s in sides])
    error = (codec.decode(codec.encode(x)) - x).square().mean()
    assert float(error) == pytest.approx(facts["autoencoder/error"], rel=1e-4)
    assert facts["autoencoder/unexplained"] == pytest.approx(facts["autoencoder/error"] / float(x.var()), rel=1e-4)
    z = codec.encode(torch.cat([Image().encode(s.raw[s.splits["train"]], None) for s in sides]))
    assert z.mean((0, 2, 3)).abs().max() < 0.2 and (z.std((0, 2, 3)) - 1).abs().max() < 0.2
    again, again_facts = trained_autoencoder(sides, 2, 8, QUICK, tmp_path)
    assert again_facts == facts and all(
        torch.equal(a, b) for a, b in zip(codec.parameters(), again.parameters(), strict=True)
    )
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_noise_in_training_makes_near_latents_decode_to_near_images(tmp_path: Path):
    side = blobs(seed=6)
    x = Image().encode(side.raw[side.splits["test"]], None)
    off = []
    for noise in (0.0, 1.0):
        codec, _ = trained_autoencoder([side], 2, 4, replace(QUICK, noise=noise, steps=80, batch=16), tmp_path)
        with torch.no_grad():
            z = codec.encode(x)
            moved = codec.decode(z + torch.randn(z.shape, generator=torch.Generator().manual_seed(0)))
            off.append(float((moved - codec.decode(z)).square().mean()))
    assert off[1] < 0.6 * off[0]


def test_a_gaussian_enters_as_the_gaussian_of_the_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flowport.data.space.AUTOENCODERS", tmp_path)
    noise, target = Gaussian(event_shape=[1, 8, 8]), blobs(seed=5)
    source, latents, facts = LatentSpace(channels=3, width=8, steps=1).enter(noise, target)
    assert source.standard_gaussian and source.event_shape == latents.event_shape == (3, 2, 2)
    assert source.modality.decode(torch.zeros(1, 3, 2, 2)).shape == (1, 1, 8, 8) and facts
    assert DataSpace().enter(noise, target) == (noise, target, {})


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (EightGaussians(), blobs(), "encodes stored images"),
        (Gaussian(), Gaussian(), "encodes stored images"),
        (
            blobs(),
            Stored("wave", torch.zeros(9, 8192, dtype=torch.int16), None, LogMel(), {"train": torch.arange(9)}),
            "images of one shape",
        ),
    ],
)
def test_what_has_no_latent_space_is_refused(source, target, said):
    with pytest.raises(FlowportError, match=said):
        LatentSpace().enter(source, target)


def test_sides_that_the_autoencoder_cannot_halve_are_refused():
    with pytest.raises(FlowportError, match="divisible by 4"):
        Autoencoder((1, 10, 8))


def test_the_autoencoder_is_a_part_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever autoencoder is trained later, the run decodes by its own."""
    monkeypatch.setattr("flowport.data.space.AUTOENCODERS", tmp_path / "first")
    words = [
        "experiment=mnist_latent",
        "space.steps=3",
        "space.width=4",
        "network.width=8",
        "metric=[sliced_wasserstein]",
        "trainer.max_steps=2",
        "evaluation_items=8",
        "grid.steps=2",
        "data.batch=4",
    ]
    runs.run(tmp_path / "run", *words)
    shutil.rmtree(tmp_path / "first")
    monkeypatch.setattr("flowport.data.space.RECIPE", replace(RECIPE, seed=1))
    monkeypatch.setattr("flowport.data.space.AUTOENCODERS", tmp_path / "second")
    run = restore(RunFolder(tmp_path / "run"))
    own = {k.removeprefix("codec."): v for k, v in runs.weights(tmp_path / "run").items() if k.startswith("codec.")}
    codec = run.module.target.modality.codec()
    assert own and codec is run.module.codec and runs.equal(own, codec.state_dict())
