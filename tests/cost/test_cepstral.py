"""Cepstra: an orthonormal change of coordinates whose parts are level, envelope and fine structure."""

import pytest
import torch

from flowport.cost import CepstralFeatures, FeaturesCost
from flowport.cost.squared_euclidean import squared_distances
from flowport.errors import FlowportError
from flowport.types import Sample

X, Y = (torch.randn(5, 1, 24, 7, generator=torch.Generator().manual_seed(k)) for k in (0, 1))


def test_weights_of_one_give_the_squared_distance():
    found = FeaturesCost(CepstralFeatures(weights=(1, 1, 1)))(Sample(X), Sample(Y))
    torch.testing.assert_close(found, squared_distances(X, Y), rtol=1e-4, atol=1e-3)


def test_the_parts_add_up_and_a_weight_multiplies_its_part():
    parts = [
        FeaturesCost(CepstralFeatures(9, weights))(Sample(X), Sample(Y))
        for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    torch.testing.assert_close(sum(parts), squared_distances(X, Y), rtol=1e-4, atol=1e-3)
    both = FeaturesCost(CepstralFeatures(9, (2, 3, 5)))(Sample(X), Sample(Y))
    torch.testing.assert_close(both, 2 * parts[0] + 3 * parts[1] + 5 * parts[2], rtol=1e-4, atol=1e-3)


def test_the_level_is_the_mean_over_bands_and_the_envelope_is_smooth():
    level = FeaturesCost(CepstralFeatures(weights=(1, 0, 0)))(Sample(X), Sample(Y))
    means = 24 * squared_distances(X.mean(2), Y.mean(2))
    torch.testing.assert_close(level, means, rtol=1e-4, atol=1e-3)
    band = torch.arange(24)[None, None, :, None] + 0.5
    smooth = torch.cos(torch.pi / 24 * 3 * band).expand(1, 1, 24, 7)
    fine = torch.cos(torch.pi / 24 * 20 * band).expand(1, 1, 24, 7)
    nothing = Sample(torch.zeros(1, 1, 24, 7))
    envelope = FeaturesCost(CepstralFeatures(13, (0, 1, 0)))
    assert float(envelope(Sample(smooth), nothing)) == pytest.approx(12 * 7, rel=1e-5)
    assert float(envelope(Sample(fine), nothing)) == pytest.approx(0, abs=1e-6)


def test_what_is_no_spectrogram_or_no_weight_is_refused():
    with pytest.raises(FlowportError, match="for spectrograms"):
        CepstralFeatures()(torch.zeros(3, 4))
    for weights in ((1, 1), (1, -1, 1)):
        with pytest.raises(FlowportError, match=r"network\.weights="):
            CepstralFeatures(weights=weights)
