"""The algebra of a tilt: Δv = η G, Δs = G, ΔE[x1 | x] = (n²/β) G, on every path that has a noise (THEORY 3.1, 4.2)."""

import math
from functools import partial

import pytest
import torch

from flowport.errors import FlowportError
from flowport.field import AnalyticField, LearnedField
from flowport.field.analytic import JointMixture
from flowport.finetuning.adapter import ControlAdapter, FullAdapter
from flowport.finetuning.path_weights import annealed_strength, effective, normalised
from flowport.finetuning.tilted_field import TiltedField
from flowport.network import MLP
from flowport.path import (
    BrownianBridge,
    LinearPath,
    PolynomialPath,
    SmoothBridge,
    TrigonometricPath,
    VariancePreservingPath,
)
from flowport.types import Condition, ConditionShape
from tests.laws.oracles import COUPLED, FROM_NOISE, points, tensor
from tests.laws.tilts import F64, Difference, from_noise, given_start

close = torch.testing.assert_close
C, Q = tensor(0.7, -0.4), torch.tensor([[0.5, 0.1], [0.1, 0.3]], dtype=F64)


def tilt_of(joint: JointMixture) -> JointMixture:
    """The law p(x0, x1) e^{r(x1)}, r = cᵀx − ½ xᵀQx, of a mixture whose ends are independent in every component."""
    inverse = torch.linalg.inv(joint.s1)
    s1 = torch.linalg.inv(inverse + Q)
    pull = (inverse @ joint.m1[..., None])[..., 0] + C
    m1 = (s1 @ pull[..., None])[..., 0]
    gained = (
        -0.5 * torch.logdet(torch.eye(2, dtype=F64) + joint.s1 @ Q)
        - 0.5 * (joint.m1 * (inverse @ joint.m1[..., None])[..., 0]).sum(-1)
        + 0.5 * (pull * m1).sum(-1)
    )
    return JointMixture(joint.log_weights + gained, joint.m0, m1, joint.s0, s1, joint.cross)


NOISY = [LinearPath(), TrigonometricPath(), PolynomialPath(1.5, 3.0), VariancePreservingPath()]
BRIDGES = [BrownianBridge(0.8), SmoothBridge(0.9)]


@pytest.mark.parametrize("path", [*NOISY, *BRIDGES], ids=lambda p: type(p).__name__)
def test_the_exact_tilt_has_the_exact_score_and_end(path):
    """One Δv gives velocity, score and E[x1 | x] of the tilted law, though only Δv is known."""
    x, x0 = points(17)
    t = torch.linspace(0.05, 0.95, 17, dtype=F64)
    if path.bridge:
        joint, condition = COUPLED["mixture"], Condition(source=x0)
        base = given_start(joint, path)
        # given x0 every component is independent of it, so the tilt is that of a mixture for every start
        each = [given_start(fixed(joint, k, x0), path) for k in range(17)]
        exact = Rows([given_start(tilt_of(fixed(joint, k, x0)), path) for k in range(17)], each[0])
    else:
        joint, condition = FROM_NOISE["mixture"], Condition()
        base, exact = from_noise(joint, path), from_noise(tilt_of(joint), path)
    tilted = TiltedField(base, Difference(exact))
    close(tilted.velocity(x, t, condition), exact.velocity(x, t, condition))
    close(tilted.score(x, t, condition), exact.score(x, t, condition), rtol=1e-7, atol=1e-7)
    close(tilted.endpoints(x, t, condition)[1], exact.endpoints(x, t, condition)[1], rtol=1e-7, atol=1e-7)
    g = tilted.tilt(x, t, condition)
    close(g, exact.score(x, t, condition) - base.score(x, t, condition), rtol=1e-6, atol=1e-6)
    ends = exact.endpoints(x, t, condition)[1] - base.endpoints(x, t, condition)[1]
    gains = tilted.gains(t)
    close((gains.variance / gains.beta)[:, None] * g, ends, rtol=1e-6, atol=1e-6)
    close(gains.end[:, None] * tilted.shift(x, t, condition), ends, rtol=1e-6, atol=1e-6)


def fixed(joint: JointMixture, k: int, x0: torch.Tensor) -> JointMixture:
    """The law of x1 given one start, as a joint mixture whose source may be anything."""
    given = joint.given(x0[k : k + 1])
    n = len(joint.log_weights)
    eye = torch.eye(2, dtype=F64).expand(n, 2, 2)
    return JointMixture(given.log_weights[0], given.m0[0], given.m1[0], eye, given.s1, 0 * eye)


class Rows(AnalyticField):
    """Row k by the k-th field."""

    def __init__(self, fields, like):
        super().__init__(like.joint, like.path, like.prediction, like.conditioning, like.capabilities)
        self.fields = fields

    def forward(self, x, t, condition):
        rows = [f(x[k : k + 1], t[k : k + 1], condition[k : k + 1]) for k, f in enumerate(self.fields)]
        return torch.cat(rows)


def test_the_memoryless_weights_of_the_straight_path():
    """η = (1 − t)/t; a network of output 1 moves the velocity by (1 − t)/((1 − t)² + t²)."""
    tilted = TiltedField(from_noise(FROM_NOISE["gaussian"]), Difference(from_noise(FROM_NOISE["gaussian"])))
    t = torch.linspace(0.01, 0.99, 9, dtype=F64)
    gains = tilted.gains(t)
    close(gains.eta, (1 - t) / t)
    close(gains.unit_velocity, (1 - t) / ((1 - t) ** 2 + t**2))
    close(gains.end, 1 - t)
    close(gains.unit * gains.eta, gains.unit_velocity)
    close(gains.spread, (1 - t) / ((1 - t) ** 2 + t**2).sqrt())


@pytest.mark.parametrize("adapter", [partial(ControlAdapter, network=MLP), FullAdapter], ids=["control", "full"])
def test_tuning_starts_at_the_base_and_never_moves_it(adapter):
    base = learned()
    tilted = TiltedField(base, adapter(base, (2,), ConditionShape()))
    x, t = points(8)[0].float(), torch.linspace(0, 1, 8)
    close(tilted.velocity(x, t, Condition()), base.velocity(x, t, Condition()), rtol=1e-6, atol=1e-6)
    assert not tilted.train().base.training and tilted.adapter.training
    assert [p for p in base.parameters() if p.requires_grad] == []
    learnt = [p for p in tilted.parameters() if p.requires_grad]
    assert learnt
    tilted.velocity(x, t, Condition()).square().sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in learnt)


def learned():
    like = from_noise(FROM_NOISE["gaussian"])
    torch.manual_seed(0)
    network = MLP((2,), ConditionShape(), width=8, depth=1)
    return LearnedField(network, like.path, like.prediction, like.conditioning, like.capabilities)


def test_a_network_that_cannot_be_silenced_is_refused():
    class Loud(MLP):
        def forward(self, x, t, condition):
            return super().forward(x, t, condition) + 1

    with pytest.raises(FlowportError, match="does not end in its last layer"):
        ControlAdapter(from_noise(FROM_NOISE["gaussian"]), (2,), ConditionShape(), Loud)


def test_weights_of_paths():
    """Effective sizes by hand; the reached strength is the largest that keeps the wanted share; groups are separate."""
    w = normalised(torch.tensor([0.0, math.log(3), 5.0, 5.0], dtype=F64), 2)
    close(w, tensor(0.125, 0.375, 0.25, 0.25))
    close(effective(w, 2), tensor((1 / (1 / 16 + 9 / 16) / 2 + 1) / 2)[0])
    reward = torch.randn(4000, generator=torch.Generator().manual_seed(1), dtype=F64)
    # e^{a r} with r ~ N(0, λ²) has the effective share e^{−a²λ²}
    scale, temper = annealed_strength(2 * reward, torch.zeros(4000, dtype=F64), 1, 0.5)
    assert float(scale) == pytest.approx(math.sqrt(math.log(2)) / 2, abs=0.03) and float(temper) == 1
    scale, temper = annealed_strength(0 * reward, 2 * reward, 1, 0.5)  # the weights are tempered
    assert float(temper) == pytest.approx(math.sqrt(math.log(2)) / 2, abs=0.03)
    assert float(annealed_strength(0.1 * reward, 0 * reward, 1, 0.5)[0]) == 1
