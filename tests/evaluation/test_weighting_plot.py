"""The weight that a run is drawn with is the one that it trains with."""

import pytest
import torch

from flowport.distribution import EightGaussians, Gaussian
from flowport.errors import FlowportError
from flowport.evaluation.weighting_plot import computed_curve, defined_curves, draw
from flowport.objective import FlowMatching, ShortcutObjective
from flowport.objective.time_sampler import CosmapTimeSampler, UniformTimeSampler
from flowport.objective.weighting import CosineWeighting, FlowMatchingWeighting, UniformWeighting
from flowport.path import LinearPath, TrigonometricPath
from flowport.prediction import SourcePrediction, VelocityPrediction
from flowport.training.compose import compose

close = torch.testing.assert_close


def curve(path, prediction, times, weighting):
    flow, _ = compose(
        Gaussian(mean=[0.0, 0.0], covariance=[1.0, 1.0]),
        EightGaussians(),
        path=path,
        prediction=prediction,
        objective=FlowMatching(times, weighting),
    )
    return computed_curve(flow.objective, flow.field)


def test_an_objective_without_a_weight_is_refused():
    flow, _ = compose(
        Gaussian(mean=[0.0, 0.0], covariance=[1.0, 1.0]),
        EightGaussians(),
        objective=ShortcutObjective(UniformTimeSampler()),
    )
    with pytest.raises(FlowportError, match="ShortcutObjective is no integral of a weight"):
        computed_curve(flow.objective, flow.field)


def test_curves_of_runs_are_those_of_their_parts(tmp_path):
    snr, w = curve(LinearPath(), VelocityPrediction(), CosmapTimeSampler(), UniformWeighting())
    close(w, FlowMatchingWeighting(CosmapTimeSampler()).of(snr))
    share = 1 - 2e-3  # of [0, 1]: the noise is read inside its margins alone, so its times are denser there
    snr, w = curve(TrigonometricPath(), SourcePrediction(), UniformTimeSampler(), UniformWeighting())
    close(w, 1 / (2 * torch.pi * torch.cosh(snr / 2)) / share, rtol=1e-6, atol=0)
    snr, w = curve(TrigonometricPath(), SourcePrediction(), UniformTimeSampler(), CosineWeighting())
    close(w, CosineWeighting().of(snr))
    curves = {"this run": (snr, w), **defined_curves({"cosine": CosineWeighting(), "uniform": UniformWeighting()})}
    assert list(curves) == ["this run", "cosine"]
    draw(curves, tmp_path / "w.png")
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
