"""The losses of tuning are least at the exact tilt, and pull towards it from either side (no network, 1-D)."""

import pytest
import torch
from torch import nn

from flowport.finetuning.adapter import Adapter
from flowport.finetuning.certificate import certificate, memory
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method import AdjointMatching, PathWeighted, ValueMatching
from flowport.finetuning.tilted_field import TiltedField
from flowport.path import BrownianBridge
from flowport.reward import LinearReward
from flowport.sampling.grid import PowerGrid, UniformGrid
from flowport.tensors import scaled
from flowport.types import Pair, Sample
from tests.laws.oracles import line
from tests.laws.tilts import F64, Difference, from_noise, given_start

S2, C = 0.49, 1.0


class Near(Adapter):
    """The exact change plus δ times the unit of a control."""

    def __init__(self, exact, delta=0.0, base=None):
        super().__init__()
        self.base = base
        self.exact, self.delta = Difference(exact), nn.Parameter(torch.tensor(delta, dtype=F64))

    def velocity(self, x, t, condition, base, gains):
        return self.exact.velocity(x, t, condition, base, gains) + self.delta * scaled(gains.unit_velocity, x / x)

    def tilt(self, x, t, condition, base, gains):
        known = scaled(1 / gains.eta, self.exact.velocity(x, t, condition, base, gains))
        return known + self.delta * scaled(gains.unit, x / x)

    def log_value(self, x, t, condition, gains):
        """log E[e^{C x1} | x_t = x] / E e^{C x1} of a Gaussian of variance S2, and what δ adds to its gradient."""
        end = self.base.endpoints(x, t, condition)[1][:, 0]
        left = S2 * gains.variance / (gains.beta**2 * S2 + gains.variance)
        return C * (end - 1) + C**2 * (left - S2) / 2 + self.delta * gains.unit * (x[:, 0] - gains.beta)


def problem(bridge):
    """Base, tilt by C x, starts."""
    if bridge:
        x0 = torch.full((100, 1), 2.4, dtype=F64)
        path = BrownianBridge(0.8)
        law, tilted = (line([(1, 2, m, 0.25, S2, 0.0)]) for m in (1, 1 + S2 * C))
        return given_start(law, path), given_start(tilted, path), x0
    law, tilted = (line([(1, 0, m, 1, S2, 0)]) for m in (1, 1 + S2 * C))
    x0 = torch.randn(800, 1, dtype=F64, generator=torch.Generator().manual_seed(9))
    return from_noise(law), from_noise(tilted), x0


DELTAS = (-0.3, 0.0, 0.3)
SEEDS = 6


def slopes(method, base, exact, x0, rolled):
    """Derivatives of the loss by δ at each of DELTAS, (SEEDS, 3); paths are those of the field with δ = ``rolled``."""
    found = []
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        pair = Pair(Sample(x0), Sample(x0))
        rollout, _ = method.collect(
            TiltedField(base, Near(exact, rolled, base)), LinearReward([C]), 1.0, pair, generator
        )
        fields = [TiltedField(base, Near(exact, delta, base)) for delta in DELTAS]
        for field in fields:
            method.loss(field, [rollout], generator).mean.backward()
        found.append([float(field.adapter.delta.grad) for field in fields])
    return torch.tensor(found)


CASES = {
    "path weights": (lambda grid: PathWeighted(grid, late=None, batch=1000, paths=8), 0.4),
    "hybrid": (lambda grid: PathWeighted(grid, late=0.7, batch=1000, paths=8), 0.4),
    "weighted adjoint": (lambda grid: PathWeighted(grid, late=0.0, flow=False, batch=1000, paths=8), 0.4),
    "value matching": (lambda grid: ValueMatching(grid, batch=1000, paths=50), 0.4),
    "adjoint matching": (lambda grid: AdjointMatching(ConsistentDiscretisation(grid)), 0.0),
}


@pytest.mark.parametrize("bridge", [False, True], ids=["noise", "bridge"])
@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_least_at_the_tilt(name, bridge):
    """Whatever the control that rolled the paths out, where their weights are used; at its own control otherwise. The
    adjoint alone, on early steps too, has the O(h) of its chain."""
    make, rolled = CASES[name]
    found = slopes(make(PowerGrid(20, 1.5) if bridge else UniformGrid(20)), *problem(bridge), rolled)
    low, here, high = found.mean(0).tolist()
    assert low < 0 < high
    room = 4 * float(found[:, 1].std()) / SEEDS**0.5 + (0.25 if "adjoint" in name else 0.06) * (high - low) / 2
    assert abs(here) < room


def test_the_certificate_of_the_exact_tilt():
    """Reward, KL and the tilt's own mean reward are those of N(m + s²c, s²); nothing is left to gain."""
    base, exact, _ = problem(False)
    x0 = torch.randn(3000, 1, dtype=F64, generator=torch.Generator().manual_seed(9))
    numbers = certificate(
        TiltedField(base, Near(exact)),
        LinearReward([C]),
        1.0,
        Pair(Sample(x0), Sample(x0)),
        torch.Generator().manual_seed(1),
    )
    assert numbers["base_reward"] == pytest.approx(1, abs=0.06)
    assert numbers["reward"] == pytest.approx(1 + S2, abs=0.08) == numbers["tilted_reward"]
    assert numbers["energy"] == pytest.approx(C**2 * S2 / 2, abs=0.03)
    assert numbers["effective"] > 0.98 and numbers["reached"] == 1 and numbers["gap"] < 0.05
    none = certificate(
        TiltedField(base, Near(from_noise(line([(1, 0, 1, 1, S2, 0)])))),
        LinearReward([C]),
        1.0,
        Pair(Sample(x0), Sample(x0)),
        torch.Generator().manual_seed(1),
    )
    assert none["effective"] == pytest.approx(torch.tensor(-S2 * C**2).exp().item(), abs=0.06) and none["gap"] > 0.4


def test_memory_is_nought_from_noise_and_the_spread_of_the_starts_on_a_bridge():
    """log h0(x0) = c E[x1 | x0] + const for a linear reward: its variance is (c C/S0)² S0."""
    base, _, x0 = problem(False)
    generator = torch.Generator().manual_seed(0)
    assert memory(base, LinearReward([C]), 1.0, Pair(Sample(x0[:200]), Sample(x0[:200])), generator) < 0.01
    m0, s0, cross = 2.0, 0.25, 0.21
    start = m0 + s0**0.5 * torch.randn(400, 1, dtype=F64, generator=generator)
    bridge = given_start(line([(1, m0, 1, s0, S2, cross)]), BrownianBridge(0.8))
    discretisation = ConsistentDiscretisation(PowerGrid(30, 1.5))
    left = memory(
        bridge, LinearReward([C]), 1.0, Pair(Sample(start), Sample(start)), generator, discretisation=discretisation
    )
    assert left == pytest.approx((C * cross / s0) ** 2 * s0, rel=0.2)


@pytest.mark.parametrize("options", [{"late": None}, {"late": 0.5, "flow": False}, {"late": 0.5}], ids=str)
def test_a_strength_out_of_reach_is_annealed_to_the_part_that_is_in_reach(options):
    """From base paths the weights e^{a c x} have the effective share e^{−a²c²s²}: a = √(log 2)/(c s), and the loss is
    least at the tilt by a·c."""
    method, base, x0 = PathWeighted(UniformGrid(20), batch=4000, **options), problem(False)[0], problem(False)[2]
    c = 3.0
    found = []
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        none = TiltedField(base, Near(from_noise(line([(1, 0, 1, 1, S2, 0)]))))
        rollout, _ = method.collect(none, LinearReward([c]), 1.0, Pair(Sample(x0), Sample(x0)), generator)
        scale = float(rollout["scale"])
        assert scale == pytest.approx(0.6931**0.5 / (c * S2**0.5), rel=0.15)
        fields = [TiltedField(base, Near(from_noise(line([(1, 0, 1 + S2 * scale * c, 1, S2, 0)])), d)) for d in DELTAS]
        for field in fields:
            method.loss(field, [rollout], generator).mean.backward()
        found.append([float(field.adapter.delta.grad) for field in fields])
    low, here, high = torch.tensor(found).mean(0).tolist()
    room = 4 * float(torch.tensor(found)[:, 1].std()) / SEEDS**0.5 + 0.1 * (high - low) / 2
    assert low < 0 < high and abs(here) < room


def test_the_less_certain_target_has_the_smaller_share():
    """The adjoint of a linear reward on a Gaussian has no spread, so flow matching gets no share beside it."""
    base, exact, x0 = problem(False)
    method = PathWeighted(UniformGrid(20), late=0.5)
    rollout, _ = method.collect(
        TiltedField(base, Near(exact)),
        LinearReward([C]),
        1.0,
        Pair(Sample(x0), Sample(x0)),
        torch.Generator().manual_seed(0),
    )
    assert float(rollout["share"].max()) < 0.05


def test_the_certificate_of_a_bridge_weighs_the_paths_of_every_start_by_themselves():
    """At the exact tilt of every start nothing is left to gain, though starts differ in what they can earn."""
    m0, s0, cross = 2.0, 0.25, 0.21
    generator = torch.Generator().manual_seed(0)
    x0 = m0 + s0**0.5 * torch.randn(640, 1, dtype=F64, generator=generator)
    gained = C * (S2 - cross**2 / s0)
    base, exact = (given_start(line([(1, m0, m, s0, S2, cross)]), BrownianBridge(0.8)) for m in (1, 1 + gained))
    numbers = certificate(
        TiltedField(base, Near(exact)),
        LinearReward([C]),
        1.0,
        Pair(Sample(x0), Sample(x0)),
        generator,
        ConsistentDiscretisation(PowerGrid(40, 1.5)),
    )
    assert numbers["effective"] > 0.97 and numbers["gap"] < 0.1
    assert numbers["energy"] == pytest.approx(C * gained / 2, abs=0.03)
