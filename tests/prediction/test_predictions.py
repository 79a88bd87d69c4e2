"""What the predictions declare, regress on, and refuse."""

import pytest
import torch

from flowport.errors import FlowportError, member_name
from flowport.path import LinearPath, SmoothBridge, TrigonometricPath
from flowport.prediction import (
    BridgePrediction,
    FlowState,
    ScorePrediction,
    SourcePrediction,
    TargetPrediction,
    VelocityPrediction,
    endpoints,
)
from flowport.prediction.base import MARGIN, solve
from flowport.types import Pair, Sample
from tests.laws.oracles import points, tensor
from tests.zoo import PATHS, PREDICTIONS, named

X, X0 = points(3)
T = tensor(0.2, 0.5, 0.7)
BRIDGE = SmoothBridge().coefficients(T)
close = torch.testing.assert_close


def test_targets_are_the_parts_of_the_sample():
    pair = Pair(Sample(X0), Sample(X))
    free, noisy, z = TrigonometricPath(), SmoothBridge(0.8), X + X0
    still, shaken = free.sample(pair, T, None), noisy.sample(pair, T, z)
    assert torch.equal(VelocityPrediction().target(free, still), still.velocity)
    assert torch.equal(TargetPrediction().target(free, still), X) and torch.equal(
        SourcePrediction().target(free, still), X0
    )
    close(ScorePrediction().target(free, still), -X0 / torch.cos(torch.pi / 2 * T)[:, None])
    close(ScorePrediction().target(noisy, shaken), -z / (0.8 * T * (1 - T))[:, None])
    assert torch.equal(BridgePrediction().target(noisy, shaken), torch.cat([shaken.velocity, z], 1))


def test_solve_is_the_two_by_two_system():
    p, q, dp, dq, y, w = torch.randn(6, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = solve(p, q, dp, dq, y, w)
    close(p * a + q * b, y)
    close(dp * a + dq * b, w)


@pytest.mark.parametrize("prediction", [TargetPrediction(), SourcePrediction(), ScorePrediction()])
def test_one_end_point_on_a_blind_bridge_is_refused(prediction):
    with pytest.raises(
        FlowportError, match=f"prediction={member_name(type(prediction), 'prediction')} is undefined on a bridge"
    ):
        prediction.flow_state(X, X, BRIDGE, None)


@pytest.mark.parametrize("prediction", [TargetPrediction(), SourcePrediction(), ScorePrediction(), BridgePrediction()])
def test_a_hub_without_noise_has_no_end_points_on_a_blind_bridge(prediction):
    with pytest.raises(FlowportError, match="a second head"):
        prediction.output(FlowState(X, X0), BRIDGE, None)
    with pytest.raises(FlowportError, match="a second head"):
        endpoints(FlowState(X, X0), BRIDGE, None)


def test_two_heads_without_noise_are_refused():
    with pytest.raises(FlowportError, match="needs a path with noise"):
        BridgePrediction().output(FlowState(X, X0), LinearPath().coefficients(T), None)


@pytest.mark.parametrize("path", **named(PATHS))
@pytest.mark.parametrize("make", **named(PREDICTIONS))
def test_times_are_read_inside_the_interval_and_away_from_vanishing_weights(make, path):
    prediction, (low, high) = make(), path().interval
    if not isinstance(prediction, (VelocityPrediction, BridgePrediction)):
        low, high = max(low, MARGIN), min(high, 1 - MARGIN)
    close(prediction.clamp(path(), tensor(0.0, 0.5, 1.0)), tensor(low, 0.5, high))
    assert (prediction.heads, prediction.needs_bridge) == (
        (2, True) if isinstance(prediction, BridgePrediction) else (1, False)
    )
