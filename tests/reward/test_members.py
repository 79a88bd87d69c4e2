"""Closed forms of single rewards."""

import math
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from flowport.distribution import EightGaussians, Gaussian, Torus
from flowport.errors import FlowportError
from flowport.modality import ComplexSTFT, Image, LatentModality, LogMel
from flowport.modality.cloud import rotations
from flowport.reward import (
    Brightness,
    ClassLogProbability,
    ClassProbability,
    CloudSymmetry,
    Colour,
    Compressibility,
    DecodedReward,
    DistanceReward,
    Extent,
    FromFileReward,
    Legibility,
    LinearReward,
    QuadraticReward,
    SemanticConsistency,
    Smoothness,
    SpectralCentroid,
    SumReward,
    Symmetry,
)
from flowport.types import Condition
from tests import zoo

NOTHING = Condition()
DOUBLE = {"dtype": torch.float64}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=tolerance, atol=tolerance)


def test_linear_and_quadratic_are_exact():
    x, c, q = normal(5, 2), torch.tensor([1.5, -0.7], **DOUBLE), torch.tensor([[2.0, 0.3], [0.3, 0.7]], **DOUBLE)
    value, gradient = LinearReward(c).value_and_gradient(x, NOTHING)
    close(value, x[:, 0] * 1.5 - x[:, 1] * 0.7)
    close(gradient, c.expand(5, 2))
    value, gradient = QuadraticReward(c, q).value_and_gradient(x, NOTHING)
    close(value, [float(c @ p - p @ q @ p / 2) for p in x])
    close(gradient, c - x @ q)
    close(QuadraticReward([0.0, 0.0], 3.0).value(x, NOTHING), -1.5 * x.square().sum(1))
    close(
        LinearReward([1.0, 2.0, 3.0, 4.0]).value(x[:4].view(2, 1, 2, 2), NOTHING),
        x[:4].view(2, 4) @ torch.arange(1.0, 5, **DOUBLE),
    )


def test_a_gaussian_tilted_by_the_quadratic_is_the_gaussian_of_the_closed_form():
    m, s = torch.tensor([0.5, -1.0], **DOUBLE), torch.tensor([[1.0, 0.4], [0.4, 0.6]], **DOUBLE)
    reward = QuadraticReward([0.8, -0.3], [[1.2, 0.2], [0.2, 0.5]])
    tilted_s = (s.inverse() + reward.q).inverse()
    tilted_m = tilted_s @ (s.inverse() @ m + reward.c)
    base, tilted = (
        Gaussian(mean=a.tolist(), covariance=b.tolist(), dtype="float64") for a, b in ((m, s), (tilted_m, tilted_s))
    )
    x = normal(20, 2)
    constant = tilted.log_prob(x) - base.log_prob(x) - reward.value(x, NOTHING)
    close(constant, constant.mean().expand(20))


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_distance_reads_its_reference_from_a_file_without_objects(tmp_path):
    reference, x = normal(1, 4, 4, seed=3), normal(5, 1, 4, 4)
    np.save(tmp_path / "point.npy", reference.numpy())
    value, gradient = DistanceReward(str(tmp_path / "point.npy")).value_and_gradient(x, NOTHING)
    close(value, [-float((p - reference).pow(2).sum()) for p in x])
    close(gradient, -2 * (x - reference))
    np.save(tmp_path / "objects.npy", np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    for name in ("objects.npy", "missing.npy"):
        with pytest.raises(FlowportError, match=r"reward\.reference=.*is not an \.npy file of numbers"):
            DistanceReward(str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


class Logits(nn.Module):
    """The points are the logits."""

    def forward(self, x):
        return x


def test_probabilities_of_classes_in_closed_form():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]], **DOUBLE)
    x, conditioned = p.log() + 3, Condition(torch.tensor([1, 2]), (p.flip(1)).log())
    close(ClassLogProbability(Logits(), 0).value(x, NOTHING), [math.log(0.7), math.log(0.25)])
    close(ClassLogProbability(Logits()).value(x, conditioned), [math.log(0.2), math.log(0.5)])
    close(ClassProbability(Logits(), scale=4.0).value(x, conditioned), [0.8, 2.0])
    close(Legibility(Logits()).value(x, NOTHING), [math.log(0.7), math.log(0.5)])
    roots = p.sqrt() / p.sqrt().sum(1, keepdim=True)
    close(Legibility(Logits(), temperature=2).value(x, NOTHING), roots.amax(1).log())
    close(SemanticConsistency(Logits()).value(x, conditioned), (p.flip(1) * p.log()).sum(1))
    gradient = ClassLogProbability(Logits(), 0).value_and_gradient(x, NOTHING)[1]
    close(gradient, torch.tensor([1.0, 0, 0]) - p)


def test_classes_that_cannot_be_read_are_refused():
    x = torch.zeros(2, 3)
    for label in (None, torch.zeros(2, 1)):
        with pytest.raises(FlowportError, match=r"it has none: give reward\.label"):
            ClassLogProbability(Logits()).value(x, Condition(label))
    with pytest.raises(FlowportError, match="asked for class -1, but its classifier knows the classes 0 … 2"):
        ClassLogProbability(Logits()).value(x, Condition(torch.tensor([0, -1])))
    with pytest.raises(FlowportError, match="conditioned on its source: use conditioning=source"):
        SemanticConsistency(Logits()).value(x, NOTHING)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(FlowportError, match=r"temperature(=(inf|nan) is not a finite| must be a) number"):
            Legibility(Logits(), temperature)


def test_images():
    x = normal(4, 3, 5, 6)
    close(Brightness().value(x, NOTHING), [float(p.mean()) for p in x])
    flat = torch.tensor([0.2, -0.4, 1.0], **DOUBLE).view(1, 3, 1, 1).expand(1, 3, 5, 6)
    close(Colour([0.2, -0.4, 1.0]).value(flat, NOTHING), [0.0])
    close(Colour([0.2, -0.4, 0.0]).value(flat, NOTHING), [-1.0])
    mirrored = torch.cat([x, x.flip(3)], 3)
    close(Symmetry().value(mirrored, NOTHING), torch.zeros(4))
    assert bool((Symmetry().value(x, NOTHING) < -0.5).all())
    assert bool((Symmetry().value(torch.cat([x, x.flip(2)], 2), NOTHING) < -0.5).all()), "upside down is no mirror"
    moved = x.clone()
    moved[:, 1, 2, 0] += 1.0  # and its mirror image feels it as well
    close(Symmetry().value_and_gradient(x, NOTHING)[1][:, 1, 2, 0], -4 / 90 * (x[:, 1, 2, 0] - x[:, 1, 2, 5]))
    ramp = torch.arange(6.0, **DOUBLE).expand(1, 1, 4, 6) * 0.3
    close(Smoothness().value(ramp, NOTHING), [-(4 * 5 * 0.09) / 24])
    close(Smoothness().value(ramp.mT, NOTHING), [-(4 * 5 * 0.09) / 24])


def test_plain_images_make_smaller_files_than_noise():
    noise = normal(1, 1, 32, 32).clamp(-1, 1)
    x = torch.cat([torch.zeros_like(noise), noise])
    plain, wild = Compressibility(Image()).value(x, NOTHING).tolist()
    assert -1 < plain < 0 and -12 < wild < -5  # bits of a pixel, header included
    torch.testing.assert_close(
        Compressibility(Image()).value(x.expand(-1, 3, -1, -1), NOTHING)[0], torch.tensor(plain / 3), rtol=0.2, atol=0
    )


@pytest.mark.parametrize("hertz", [300.0, 440.0, 1000.0, 2345.0])
@pytest.mark.parametrize("modality", [LogMel(), LogMel(mean=None, std=None), ComplexSTFT()], ids=["mel", "raw", "stft"])
def test_the_centroid_of_a_pure_tone_is_its_frequency(modality, hertz):
    seconds = torch.arange(8192, **DOUBLE) / 8000
    wave = (20000 * (2 * math.pi * hertz * seconds).sin()).round().to(torch.int16)[None]
    x = modality.encode(wave, None)[..., 4:-4]  # without the ends, where the tone begins and stops
    octaves = SpectralCentroid(modality).value(x, NOTHING)
    assert abs(1200 * float(octaves - math.log2(hertz / 440))) < 15, "cents"


def test_louder_is_not_brighter_but_a_louder_overtone_is():
    seconds = torch.arange(8192, **DOUBLE) / 8000

    def tone(loud, overtone):
        parts = (2 * math.pi * 400 * seconds).sin() + overtone * (2 * math.pi * 1600 * seconds).sin()
        return (loud * parts).round().to(torch.int16)

    x = LogMel().encode(torch.stack([tone(8000, 0.0), tone(16000, 0.0), tone(8000, 1.0)]), None)[..., 4:-4]
    soft, loud, bright = SpectralCentroid(LogMel()).value(x, NOTHING).tolist()
    assert abs(soft - loud) < 0.01 and bright == pytest.approx(math.log2(1000 / 440), abs=0.02)


def test_the_size_of_a_cloud():
    x = normal(4, 3, 50)
    r = Extent().value(x, NOTHING)
    close(r, x.var((2,), correction=0).sum(1).sqrt())
    close(Extent().value(2.5 * x + 7, NOTHING), 2.5 * r)
    turned = rotations(4, torch.Generator().manual_seed(1)).double() @ x
    close(Extent().value(turned, NOTHING), r, 1e-6)
    along = torch.stack([Extent(k).value(x, NOTHING) for k in range(3)])
    close(along.square().sum(0), r.square())
    close(along[1], x[:, 1].std(1, correction=0))


def test_a_cloud_is_symmetric_iff_it_is_its_own_mirror_image():
    half, shift = normal(4, 3, 20), normal(4, 3, 1, seed=1)
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    turn = rotations(4, torch.Generator().manual_seed(3)).double()
    point = (turn @ torch.cat([half, -half], 2))[:, :, shuffled] + shift
    plane = torch.cat([half, half * torch.tensor([1.0, -1, 1])[:, None]], 2)[:, :, shuffled] + shift
    through, across = CloudSymmetry(), CloudSymmetry(1)
    close(through.value(point, NOTHING), torch.zeros(4), 1e-12)
    close(across.value(plane, NOTHING), torch.zeros(4), 1e-12)
    for reward, x in ((through, plane), (across, point), (CloudSymmetry(0), plane)):
        assert bool((reward.value(x, NOTHING) < -0.05).all())


def test_the_symmetry_is_the_chamfer_distance_to_the_mirror_image_both_ways():
    x = normal(3, 3, 12)
    y = x - x.mean(2, keepdim=True)
    squares = (y[:, :, :, None] + y[:, :, None]).square().sum(1)  # x_i and −x_j
    for direction in (1, 2):
        close(CloudSymmetry().value(x, NOTHING), -squares.amin(direction).mean(1))


def test_tori_in_any_pose_are_more_symmetric_than_the_same_tori_dented():
    x = Torus(points=512).sample(8, torch.Generator().manual_seed(0)).x.double()
    dented = torch.where(x[:, :1] > 0.3, 0.6 * x, x)
    assert bool((CloudSymmetry().value(x, NOTHING) > CloudSymmetry().value(dented, NOTHING)).all())


def test_relative_symmetry_does_not_see_the_size_of_a_cloud():
    x = normal(4, 3, 32)
    relative = CloudSymmetry(relative=True)
    close(relative.value(3 * x, NOTHING), relative.value(x, NOTHING))
    centred = x - x.mean(2, keepdim=True)
    close(relative.value(x, NOTHING), CloudSymmetry().value(x, NOTHING) / centred.square().sum(1).mean(1))


def test_a_sum_is_linear_in_its_weights_and_has_a_gradient_iff_all_terms_have():
    x = normal(4, 1, 6, 6).clamp(-1, 1)
    parts = {"bright": Brightness(), "smooth": Smoothness()}
    both = SumReward(parts, {"bright": 2.0, "smooth": -3.0})
    singles = [reward.value_and_gradient(x, NOTHING) for reward in parts.values()]
    for found, bright, smooth in zip(both.value_and_gradient(x, NOTHING), *singles, strict=True):
        close(found, 2 * bright - 3 * smooth)
    assert not SumReward({"a": Brightness(), "b": Compressibility(Image())}, {"a": 1, "b": 1}).differentiable
    with pytest.raises(FlowportError, match=r"one weight for each reward, but reward\.terms are a and reward\.weights"):
        SumReward({"a": Brightness()}, {"b": 1})
    with pytest.raises(FlowportError, match=r"reward\.terms\.a needs a classifier"):
        SumReward({"a": Legibility}, {"a": 1})


def test_decoded_is_the_reward_of_what_is_decoded_by_the_chain_rule():
    latent, reward = LatentModality(Image(), zoo.Stretched()), QuadraticReward(normal(48), 0.7)
    z = normal(5, 3, 4, 4)
    value, gradient = DecodedReward(reward, latent).value_and_gradient(z, NOTHING)
    inner, slope = reward.value_and_gradient((2 * z).tanh(), NOTHING)
    close(value, inner)
    close(gradient, 2 * (1 - (2 * z).tanh() ** 2) * slope)
    conditioned = Condition(source=normal(5, 3, 4, 4, seed=1))
    consistent, seen = SemanticConsistency(zoo.judge(3, 4, 4)), Condition(source=(2 * conditioned.source).tanh())
    close(DecodedReward(consistent, latent).value(z, conditioned), consistent.value((2 * z).tanh(), seen))
    blind = DecodedReward(Compressibility(Image()), latent)
    assert not blind.differentiable
    close(blind.value(z, NOTHING), Compressibility(Image()).value((2 * z).tanh(), NOTHING))


def test_a_program_of_the_users_is_run_and_pickles_are_not(tmp_path):
    network = zoo.judge(3)
    torch.jit.script(network).save(str(tmp_path / "judge.pt"))
    x = normal(5, 3)
    found, expected = FromFileReward(str(tmp_path / "judge.pt"), 2), ClassLogProbability(network, 2)
    for a, b in zip(found.value_and_gradient(x, NOTHING), expected.value_and_gradient(x, NOTHING), strict=True):
        close(a, b)
    close(found.train().value(x.float(), NOTHING), expected.value(x, NOTHING).float(), 1e-6)
    with pytest.raises(FlowportError, match=r"reward=from_file returned the shape \(5, 4\)"):
        FromFileReward(str(tmp_path / "judge.pt")).value(x, NOTHING)
    with pytest.raises(FlowportError, match=r"reward\.label is 4, but .* returned the shape \(2, 4\)"):
        FromFileReward(str(tmp_path / "judge.pt"), 4).check(Torus(), Gaussian(event_shape=3))
    with pytest.raises(FlowportError, match=r"network that cannot take points of the target, \(2,\)"):
        FromFileReward(str(tmp_path / "judge.pt"), 1).check(EightGaussians(), EightGaussians())
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "pickle.pt")
    with (
        zipfile.ZipFile(tmp_path / "judge.pt") as honest,
        zipfile.ZipFile(tmp_path / "changed.pt", "w", zipfile.ZIP_STORED) as changed,
    ):
        for name in honest.namelist():
            trap = name.endswith("/data.pkl")
            changed.writestr(name, pickle.dumps(Trap(tmp_path / "sprung"), 2) if trap else honest.read(name))
    for name in ("pickle.pt", "changed.pt"):
        with pytest.raises(FlowportError, match="is not a TorchScript program"):
            FromFileReward(str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(FlowportError, match="is not a file"):
        FromFileReward(str(tmp_path / "missing.pt"))
