"""Time features and classifiers of the network family."""

import pytest
import torch

from flowport.errors import FlowportError
from flowport.network import ImageClassifier, PointClassifier
from flowport.network.embedding import TimeFeatures


def test_features_are_cosines_and_sines_of_known_frequencies() -> None:
    t = torch.tensor([0.0, 0.001, 0.37], dtype=torch.float64)
    features, w = TimeFeatures(3)(t), torch.tensor([1, 2, 4, 1.5, 3, 6], dtype=torch.float64)
    torch.testing.assert_close(features, torch.cat([(t[:, None] * w).cos(), (t[:, None] * w).sin()], 1))


def test_nearby_early_times_are_told_apart() -> None:
    early = TimeFeatures()(torch.tensor([0.0, 0.001]))
    assert (early[1] - early[0]).norm() > 0.5


def test_bfloat16_modules_keep_their_frequencies() -> None:
    t = torch.rand(9)
    assert torch.equal(TimeFeatures().bfloat16()(t), TimeFeatures()(t))


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 28, 28), (1, 64, 32), (1, 4, 5)])
def test_image_classifier_has_64_features_at_any_size(shape: tuple[int, int, int]) -> None:
    net = ImageClassifier(shape, 7).eval()
    x = torch.randn(3, *shape)
    assert net.features(x).shape == (3, 64)
    torch.testing.assert_close(net(x), net.head(net.features(x)))
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-5)


def test_point_classifier_has_64_features() -> None:
    net = PointClassifier((2,), 3)
    x = torch.randn(5, 2)
    assert net.features(x).shape == (5, 64)
    assert net(x).shape == (5, 3)


def test_wrong_shapes_and_class_counts_are_refused() -> None:
    for make in (
        lambda: ImageClassifier((2,), 3),
        lambda: ImageClassifier((1, 2, 8), 3),
        lambda: PointClassifier((1, 8, 8), 3),
        lambda: PointClassifier((2,), 1),
    ):
        with pytest.raises(FlowportError):
            make()
