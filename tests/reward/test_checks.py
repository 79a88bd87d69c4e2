"""What does not fit is refused when a fine-tuning is built."""

import pytest
import torch

from flowport.distribution import Digits, EightGaussians, Flute, Notes, Torus
from flowport.errors import FlowportError
from flowport.modality import Image
from flowport.reward import (
    Brightness,
    ClassLogProbability,
    CloudSymmetry,
    Colour,
    Compressibility,
    DecodedReward,
    DistanceReward,
    Extent,
    Legibility,
    LinearReward,
    QuadraticReward,
    Smoothness,
    SpectralCentroid,
    SumReward,
    Symmetry,
)
from flowport.types import Condition
from tests import zoo

NOTHING = Condition()


def flute():
    return Notes(Flute(), train=10)


FITTING = [
    (lambda: LinearReward([1.0, 2.0]), EightGaussians),
    (lambda: QuadraticReward([1.0, 2.0]), EightGaussians),
    (lambda: DistanceReward([1.0, 2.0]), EightGaussians),
    (lambda: Legibility(zoo.judge(2).float()), EightGaussians),
    (Brightness, Digits),
    (Symmetry, Digits),
    (Smoothness, Digits),
    (Compressibility, Digits),
    (SpectralCentroid, flute),
    (Extent, Torus),
    (lambda: CloudSymmetry(2), Torus),
]
UNFIT = [
    (lambda: LinearReward([1.0]), EightGaussians, "points of 1 numbers, but those of the target have 2"),
    (lambda: QuadraticReward([1.0]), EightGaussians, "points of 1 numbers"),
    (lambda: DistanceReward([[1.0, 2.0]]), EightGaussians, r"shape \(1, 2\), but points of the target have \(2,\)"),
    (lambda: Legibility(zoo.judge(3).float()), EightGaussians, r"cannot take points of the target, \(2,\)"),
    (lambda: ClassLogProbability(zoo.judge(2).float(), 4), EightGaussians, "the classifier knows the classes 0 … 3"),
    (lambda: ClassLogProbability(zoo.judge(3, 32).float()), Torus, "neither side has class labels"),
    (Brightness, flute, r"is for images, but the target is LogMel with points \(1, 64, 32\)"),
    (Compressibility, Torus, "is for images of bytes"),
    (lambda: Colour([1, 1, 1]), Digits, "images of 3 channels, but the target has 1"),
    (SpectralCentroid, Digits, "is for sound as a spectrogram, but the target is Image"),
    (Extent, EightGaussians, r"is for clouds \(d, N\)"),
    (lambda: Extent(3), Torus, r"reward\.axis is 3, but the clouds have the coordinates 0 … 2"),
    (lambda: SumReward({"a": Brightness()}, {"a": 1}), Torus, "brightness is for images"),
    (lambda: DecodedReward(Brightness(), Image()), Torus, "brightness is for images"),
]


@pytest.mark.parametrize(("make", "target"), FITTING)
def test_a_fitting_reward_judges_points_of_the_target(make, target):
    reward, law = make(), target()
    reward.check(law, law)
    x = law.sample(3, torch.Generator().manual_seed(0)).x
    assert float(reward.value(x, NOTHING).std()) > 0


@pytest.mark.parametrize(("make", "target", "sentence"), UNFIT)
def test_an_unfit_reward_is_refused_before_anything_is_trained(make, target, sentence):
    law = target()
    with pytest.raises(FlowportError, match=sentence):
        make().check(law, law)


def test_the_centroid_refuses_to_guess_a_modality():
    with pytest.raises(FlowportError, match="does not know its modality"):
        SpectralCentroid().value(torch.zeros(1, 1, 64, 3), NOTHING)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LinearReward(1.0), r"reward\.c is 1\.0; it must be a list"),
        (lambda: QuadraticReward([1.0, 2.0], [[1.0, 2.0], [0.0, 1.0]]), "a number or a symmetric matrix"),
        (lambda: QuadraticReward([1.0, 2.0], [1.0, 2.0]), r"reward\.q has the shape \(2,\)"),
        (lambda: Colour([1, 2, 3]), "three numbers from −1 to 1"),
        (lambda: Extent(-1), r"reward\.axis is -1"),
    ],
)
def test_options_without_sense_are_refused(make, sentence):
    with pytest.raises(FlowportError, match=sentence):
        make()
