"""The weight that a run is drawn with is the one that it trains with."""

import pytest
import torch

from flowport.composition import compose
from flowport.distribution import EightGaussians, Gaussian
from flowport.emphasis import draw, measured, stated
from flowport.errors import Refusal
from flowport.objective import FlowMatching, Shortcut
from flowport.path import Linear, Trigonometric
from flowport.prediction import Source, Velocity
from flowport.time_sampler import CosMap, Uniform
from flowport.weighting import Cosine, LinearFlow
from flowport.weighting import Uniform as One

close = torch.testing.assert_close


def curve(path, prediction, times, weighting):
    flow, _ = compose(Gaussian([0.0, 0.0], [1.0, 1.0]), EightGaussians(), path=path, prediction=prediction,
                      objective=FlowMatching(times, weighting))  # fmt: skip
    return measured(flow)


def test_an_objective_without_a_weight_is_refused():
    flow, _ = compose(Gaussian([0.0, 0.0], [1.0, 1.0]), EightGaussians(), objective=Shortcut(Uniform()))
    with pytest.raises(Refusal, match="Shortcut is no integral of a weight"):
        measured(flow)


def test_curves_of_runs_are_those_of_their_parts(tmp_path):
    snr, w = curve(Linear(), Velocity(), CosMap(), One())
    close(w, LinearFlow(CosMap()).of(snr))
    share = 1 - 2e-3  # of [0, 1]: the noise is read inside its margins alone, so its times are denser there
    snr, w = curve(Trigonometric(), Source(), Uniform(), One())
    close(w, 1 / (2 * torch.pi * torch.cosh(snr / 2)) / share, rtol=1e-6, atol=0)
    snr, w = curve(Trigonometric(), Source(), Uniform(), Cosine())
    close(w, Cosine().of(snr))
    curves = {"this run": (snr, w), **stated({"cosine": Cosine(), "uniform": One()})}
    assert list(curves) == ["this run", "cosine"]
    draw(curves, tmp_path / "w.png")
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
