"""The losses of tuning are least at the exact tilt, and pull towards it from either side (no network, 1-D)."""

import pytest
import torch
from torch import nn

from flowport.finetuning import paired_chains
from flowport.finetuning.adapter import Adapter
from flowport.finetuning.adjoint import roll_out
from flowport.finetuning.certificate import certificate
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method import AdjointMatching, PathWeighted, ValueMatching
from flowport.finetuning.paired_chains import Grouping, paired_paths
from flowport.finetuning.tilted_field import TiltedField
from flowport.network.pieces import pieces_of
from flowport.path import BrownianBridge, VarianceExplodingPath
from flowport.reward import LinearReward
from flowport.sampling.grid import PowerGrid, UniformGrid
from flowport.tensors import scaled
from flowport.types import Pair, Sample
from tests.laws.known_worlds import WORLDS, Law, World
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


def told(found, name, truth, room=0.0):
    """Whether a number is stated and within three errors of the truth."""
    assert name not in found.withheld, found.withheld
    assert abs(found.values[name] - truth) <= 3 * found.errors[name] + room, (name, found.values[name], truth)


@pytest.mark.parametrize(
    ("mean", "share"), [(1.0, 0.0), (1 + S2 * C / 2, 0.5), (1 + S2 * C, 1.0), (1 + 1.4 * S2 * C, 1.4)]
)
def test_the_certificate_of_a_gaussian_tuned_to_a_part_of_the_strength(mean, share):
    """All numbers of N(mean, s²) beside the tilt N(1 + s²c, s²); an untuned flow has the share 0, whatever its weights;
    λr is λ times r."""
    base, _, _ = problem(False)
    x0 = torch.randn(3000, 1, dtype=F64, generator=torch.Generator().manual_seed(9))
    found = certificate(
        TiltedField(base, Near(from_noise(line([(1, 0, mean, 1, S2, 0)])))),
        LinearReward([C / 4]),
        4.0,
        Pair(Sample(x0), Sample(x0)),
        torch.Generator().manual_seed(1),
    )
    kl = C**2 * S2 / 2
    told(found, "kl_to_tilt", (1 - share) ** 2 * kl, 0.004)  # O(h) of the chain
    told(found, "kl_from_tilt", (1 - share) ** 2 * kl, 0.004)
    told(found, "kl_to_base", share**2 * kl, 0.004)
    told(found, "elbo", C * mean - share**2 * kl, 0.006)
    assert found.values["elbo"] + found.values["kl_to_tilt"] == pytest.approx(C + kl, abs=0.03), "log Z"
    told(found, "share", share, 0.01)
    told(found, "mean_gap", abs(1 - share) * C * S2**0.5, 0.01)
    for name, value in (("reward", mean), ("base_reward", 1.0), ("tilted_reward", 1 + S2 * C)):
        told(found, name, value * C / 4, 0.002)
        assert found.values[f"scaled_{name}"] == pytest.approx(4 * found.values[name])
        assert found.errors[f"scaled_{name}"] == pytest.approx(4 * found.errors[name])
    assert "memory" not in found.values and "memory" not in found.withheld, "from noise there are no starts"
    numbers = found.numbers
    assert numbers["share_se"] == found.errors["share"] and "neither" in numbers["blind_spot"]
    assert numbers["paths"] == 6000 and 1000 < numbers["effective"] < 6000 and numbers["pareto_k"] < 0.5


def test_both_chains_start_where_their_path_does(monkeypatch):
    """The variance-exploding path starts at 20 z; log-ratios are those of chains with the same law of starts."""
    base, exact = (from_noise(line([(1, 0, 1.0, 1, S2, 0)]), VarianceExplodingPath()) for _ in range(2))
    x0 = torch.randn(800, 1, dtype=F64, generator=torch.Generator().manual_seed(9))
    seen = []

    def recorded(chain, field, start, *args, **options):
        seen.append(float(start.std()))
        return roll_out(chain, field, start, *args, **options)

    monkeypatch.setattr(paired_chains, "roll_out", recorded)
    chain, pair = ConsistentDiscretisation(UniformGrid(4)), Pair(Sample(x0), Sample(x0))
    field = TiltedField(base, Difference(exact))
    paired_chains.paired_paths(field, LinearReward([1.0]), 1.0, pair, torch.Generator().manual_seed(1), chain)
    assert seen == pytest.approx([20, 20], rel=0.1)  # 800 starts: a standard error of 2.5 %


def test_tuned_paths_of_a_repeated_row_have_starts_of_their_own():
    world = World(Law.of([[1.0]] * 64, [[[float(k % 5), 0.0]] for k in range(64)], 0.3), (0.5, 0.0), "classes")
    generator = torch.Generator().manual_seed(0)
    batch, seen = world.batch(256, generator), []
    field = world.tuned("untuned")
    start = field.path.start
    field.path.start = lambda x0, z: seen.append(x0) or start(x0, z)
    paired_paths(field, world.reward, 1.0, batch, generator, ConsistentDiscretisation(UniformGrid(4)))
    assert len(seen) == 4, "of the batch and anew, for either chain"
    assert all(len(x0.unique(dim=0)) == 256 for x0 in (seen[1], seen[3]))


def test_memory_is_the_spread_of_the_starts_on_a_bridge():
    """log h0(x0) = c E[x1 | x0] + const for a linear reward: its variance is (c C/S0)² S0; at the exact tilt of every
    start nothing is left to gain, though starts differ in what they earn."""
    m0, s0, cross = 2.0, 0.25, 0.21
    generator = torch.Generator().manual_seed(0)
    x0 = m0 + s0**0.5 * torch.randn(1600, 1, dtype=F64, generator=generator)
    gained = C * (S2 - cross**2 / s0)
    base, exact = (given_start(line([(1, m0, m, s0, S2, cross)]), BrownianBridge(0.8)) for m in (1, 1 + gained))
    found = certificate(
        TiltedField(base, Near(exact)),
        LinearReward([C]),
        1.0,
        Pair(Sample(x0), Sample(x0)),
        generator,
        ConsistentDiscretisation(PowerGrid(40, 1.5)),
    )
    told(found, "memory", (C * cross / s0) ** 2 * s0)
    told(found, "kl_to_tilt", 0.0, 0.004)
    told(found, "kl_to_base", C * gained / 2, 0.004)
    told(found, "share", 1.0, 0.02)


def test_an_exact_tilt_of_every_class_is_certified_as_exact():
    """Classes of means 3 apart: with one Ẑ for all of them the tilt would seem to be of the last class alone."""
    means = [[[-1.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [4.0, 0.0]], [[5.0, 0.0], [7.0, 0.0]]]
    world = World(Law.of([[0.5, 0.5], [0.7, 0.3], [0.4, 0.6]], means, 0.3), (0.8, 0.0), "classes")
    generator = torch.Generator().manual_seed(0)
    batch = world.batch(1200, generator)
    found = certificate(world.tuned("exact"), world.reward, 1.0, batch, generator)
    told(found, "kl_to_tilt", 0.0, 0.03)
    told(found, "kl_from_tilt", 0.0, 0.03)
    told(found, "share", 1.0, 0.03)
    tilt, label = world.law.tilted(torch.tensor(world.c)), batch.target.label
    mean = (tilt.weights[..., None] * tilt.means).sum(1)[label].mean(0)
    told(found, "tilted_reward", float(mean @ torch.tensor(world.c)), 0.03)


def test_a_flow_told_more_classes_than_paths_allow_repeats_rows_of_the_batch():
    law = Law.of([[1.0]] * 64, [[[float(k % 5), 0.0]] for k in range(64)], 0.3)
    world, generator = World(law, (0.5, 0.0), "classes"), torch.Generator().manual_seed(0)
    batch = world.batch(256, generator)
    grouping = Grouping.of(world.tuned("untuned"), batch)
    assert grouping.clustered and grouping.groups == 16 and len(grouping.rows) == 256
    assert all(len(set(batch.target.label[grouping.rows[grouping.group == k]].tolist())) == 1 for k in range(16))
    found = certificate(world.tuned("untuned"), world.reward, 1.0, batch, generator, paths=128)
    reason = "paths from 8 told values, fewer than 16, give no standard error that covers"
    assert found.withheld["reward"] == found.withheld["kl_to_base"] == reason, "from noise there are no starts"


@pytest.mark.parametrize(("rows", "groups"), [(20, 20), (40, 32), (600, 32)])
def test_as_many_paths_as_asked_for_come_from_few_starts(rows: int, groups: int):
    world, generator = WORLDS["bridge"], torch.Generator().manual_seed(0)
    grouping = Grouping.of(world.tuned("untuned"), world.batch(rows, generator), paths=512)
    assert grouping.clustered and grouping.groups == groups and len(grouping.rows) == 16 * groups
    assert len(grouping.rows.unique()) == groups


def test_a_rare_mode_is_seen_or_withheld_but_where_no_path_goes_there():
    """A mode of weight .001 holds half of the tilt. Where a path of an untuned flow has been there, the weights are
    withheld; where none has, the certificate cannot see it, and says so."""
    world = World(Law.of([0.999, 0.001], [[-2.0, 0.0], [4.0, 0.0]], 0.25), (1.2, 0.0))
    field, seen, blind = world.tuned("untuned"), [], []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        found = certificate(
            field, world.reward, 1.0, world.batch(400, generator), generator, ConsistentDiscretisation(UniformGrid(30))
        )
        (seen if found.values["effective"] < 150 else blind).append(found)
        assert "neither" in found.numbers["blind_spot"]
    assert seen and blind
    assert all("k̂" in found.withheld["kl_to_tilt"] and "share" in found.withheld for found in seen)


def test_pieces_of_any_size_are_the_same_chains():
    """Rows of a piece keep their conditions: classes whose rewards are far apart would differ."""
    world, generator = WORLDS["classes"], torch.Generator().manual_seed(0)
    batch = world.batch(400, generator)
    field, reward, found = world.tuned("half"), world.reward, []
    for rows in (None, 70):
        with pieces_of(rows, field, reward):
            found.append(certificate(field, reward, 1.0, batch, torch.Generator().manual_seed(3)))
    assert found[0].values == pytest.approx(found[1].values, rel=1e-4, abs=1e-6)
    assert found[0].errors == pytest.approx(found[1].errors, rel=1e-4, abs=1e-6)


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


def test_an_effective_size_that_no_strength_keeps_is_not_reported_as_a_part_of_the_strength():
    """A control far from base and tilt: the weights are tempered, and the share of the strength is 0, no argmax."""
    method, (base, exact, x0) = PathWeighted(UniformGrid(20), late=None), problem(False)
    for delta, kept in ((4.0, False), (0.0, True)):
        field = TiltedField(base, Near(exact, delta, base))
        pair, generator = Pair(Sample(x0), Sample(x0)), torch.Generator().manual_seed(0)
        facts = method.collect(field, LinearReward([C]), 1.0, pair, generator)[1]
        assert (float(facts["temper"]) == 1) == kept and float(facts["strength_share"]) == float(kept)


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
