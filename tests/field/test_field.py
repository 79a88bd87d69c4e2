"""A learned field whose network is the oracle's output is the oracle."""

import pytest
import torch

from flowport.field import LearnedField
from flowport.tensors import bisection, over
from flowport.types import Condition
from tests.laws.oracles import SCORED, compositions, points, tensor


class Told(torch.nn.Module):
    """A network that answers with the oracle and records its arguments."""

    def __init__(self, oracle):
        super().__init__()
        self.oracle, self.heard = oracle, []

    def forward(self, x, t, condition):
        path, prediction = self.oracle.path, self.oracle.prediction
        if prediction.network_time(path, t) is not t:
            t = bisection(lambda s: prediction.network_time(path, s), t, *path.interval).to(x)
        self.heard.append((t, condition))
        scale = prediction.input_scale(path, t)
        return self.oracle(x if scale is None else x / over(scale, x), t, condition)


@pytest.mark.parametrize("c", **compositions(SCORED))
def test_learned_field_is_its_network_read_by_its_prediction(c):
    x, x0 = points(4)
    oracle = c.field(c.joint("mixture"))
    network = Told(oracle)
    field = LearnedField(network, c.path, c.prediction, oracle.conditioning, oracle.capabilities)
    t, condition = tensor(0.0, 0.3, 0.8, 1.0), c.condition(x0)
    for name in ("velocity", "score"):
        torch.testing.assert_close(getattr(field, name)(x, t, condition), getattr(oracle, name)(x, t, condition))
    assert all(given is condition for _, given in network.heard)
    velocity_times, score_times = (heard for heard, _ in network.heard)
    torch.testing.assert_close(velocity_times, c.prediction.clamp(c.path, t))
    torch.testing.assert_close(score_times, c.path.clamp(t).clamp(1e-3, 1 - 1e-3))


def test_velocity_and_score_come_from_one_call_and_gradients_flow():
    c = dict(SCORED)["linear-SourceIsNoise-target"]
    oracle = c.field(c.joint("gaussian"))
    network = Told(oracle)
    field = LearnedField(network, c.path, c.prediction, oracle.conditioning, oracle.capabilities)
    x = points(3)[0].requires_grad_()
    velocity, score = field.velocity_and_score(x, tensor(0.4).expand(3), Condition())
    assert len(network.heard) == 1
    (slope,) = torch.autograd.grad((velocity + score).sum(), x)
    assert slope.shape == x.shape and bool((slope != 0).any())
