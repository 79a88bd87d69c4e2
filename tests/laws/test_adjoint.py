"""The discretised chains of adjoint matching against their own fixed points and against the tilt."""

from functools import cache, partial

import pytest
import torch
from torch import nn

from flowport.field import LearnedField
from flowport.finetuning.adjoint import lean_adjoint, roll_out
from flowport.finetuning.discretisation import ConsistentDiscretisation, NoiseSchedule, PaperDiscretisation
from flowport.finetuning.tilted_field import TiltedField
from flowport.network import MLP
from flowport.path import BrownianBridge
from flowport.sampling.grid import PowerGrid, UniformGrid
from flowport.types import Condition, ConditionShape
from tests.laws.oracles import line
from tests.laws.tilts import F64, Affine, Difference, Table, Tabled, from_noise, given_start

S, C = 0.7, 1.5


def normal(s=S):
    """N(0, 1) to N(1, s²)."""
    return from_noise(line([(1, 0, 1, 1, s * s, 0)]))


@pytest.mark.parametrize(
    ("discretisation", "s", "c", "steps", "mean"),
    [
        (ConsistentDiscretisation, 0.7, 1.5, 10, 1.7404),
        (ConsistentDiscretisation, 0.7, 1.5, 20, 1.7349),
        (ConsistentDiscretisation, 0.7, 1.5, 40, 1.7348),
        (ConsistentDiscretisation, 0.3, 5, 20, 1.4597),
        (ConsistentDiscretisation, 0.3, 5, 40, 1.4520),
        (PaperDiscretisation, 0.7, 1.5, 10, 1.7722),
        (PaperDiscretisation, 0.7, 1.5, 20, 1.7833),
        (PaperDiscretisation, 0.7, 1.5, 40, 1.7669),
        (PaperDiscretisation, 0.3, 5, 20, 1.4616),
        (PaperDiscretisation, 0.3, 5, 40, 1.4687),
    ],
)
def test_linear_reward_reaches_the_audited_mean(discretisation, s, c, steps, mean):
    made, base = discretisation(UniformGrid(steps)), normal(s)
    chain = Affine.of(made, base)
    assert chain.moments(*chain.optimum(c, 0, made.pairs_next_adjoint))[0] == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize(
    ("discretisation", "steps", "std"),
    [(ConsistentDiscretisation, 20, 0.514), (ConsistentDiscretisation, 10, 0.535), (PaperDiscretisation, 40, 0.515)],
)
def test_quadratic_reward_has_the_spread_of_its_own_discrete_law(discretisation, steps, std):
    made = discretisation(UniformGrid(steps))
    chain = Affine.of(made, normal())
    assert chain.moments(*chain.optimum(0, 2, made.pairs_next_adjoint))[1] ** 0.5 == pytest.approx(std, abs=3e-3)


def tabled(made, base, c, q, x0=None):
    """The base under the optimal control of its own chain, and that control's g_k and H_k."""
    affine, chain = Affine.of(made, base, x0), made.noise_schedule(base)
    g, gain = affine.optimum(c, q, made.pairs_next_adjoint)
    return Tabled(base, Table(chain.times[:-1], g, gain, chain.variances)), affine, g, gain


BASES = {
    "noise-exact": (ConsistentDiscretisation(UniformGrid(10)), normal(), None),
    "noise-paper": (PaperDiscretisation(UniformGrid(10)), normal(), None),
    "bridge": (
        ConsistentDiscretisation(PowerGrid(10, 1.5)),
        given_start(line([(1, 2, 1, 0.25, 0.49, 0.21)]), BrownianBridge(0.8)),
        2.4,
    ),
}


@cache
def rolled(name, c, q):
    """40,000 paths under the optimal control of a chain for the reward c x − q x²/2, and their lean adjoints."""
    made, base, x0 = BASES[name]
    field, affine, g, gain = tabled(made, base, c, q, x0)
    generator = torch.Generator().manual_seed(3)
    n = 40_000
    x = torch.randn(n, 1, dtype=F64, generator=generator) if x0 is None else torch.full((n, 1), x0, dtype=F64)
    condition = Condition(source=None if x0 is None else x)
    paths = roll_out(made, base, x, condition, generator, field)
    adjoint = lean_adjoint(made, base, paths.states, condition, -(c - q * paths.states[-1]))
    return made, affine, (g, gain), paths, adjoint, (0.0, 1.0) if x0 is None else (x0, 0.0)


every = pytest.mark.parametrize(("name", "c", "q"), [(n, *r) for n in BASES for r in ((1.5, 0.0), (1.0, 2.0))])


@every
def test_the_lean_adjoint_regresses_on_the_optimal_control(name, c, q):
    """E[−a | x_k] = g_k + H_k x within 4 standard errors at every step: sign, factor, index, terminal gradient."""
    made, _, (g, gain), paths, adjoint, _ = rolled(name, c, q)
    for k in range(len(g) - 1):
        x, a = paths.states[k][:, 0], -adjoint[k + 1 if made.pairs_next_adjoint else k][:, 0]
        rest = a - (g[k] + gain[k] * x)
        features = torch.stack([torch.ones_like(x), x - x.mean()], 1)
        if float(x.std()) < 1e-9:
            features = features[:, :1]
        fit = torch.linalg.lstsq(features, rest[:, None]).solution[:, 0]
        error = rest.std() / (len(x) ** 0.5 * features.square().mean(0).sqrt())
        assert bool((fit.abs() <= 4 * error + 1e-9).all()), k


@every
def test_paths_have_the_moments_of_the_recursion(name, c, q):
    _, affine, control, paths, _, start = rolled(name, c, q)
    mean, variance = affine.moments(*control, *start)
    end = paths.states[-1][:, 0]
    assert float(end.mean()) == pytest.approx(mean, abs=4 * (variance / len(end)) ** 0.5)
    assert float(end.var()) == pytest.approx(variance, rel=0.03)


@every
def test_the_path_weight_is_the_exact_likelihood_ratio(name, c, q):
    """E e^{−S} = 1 and E[e^{−S} f(x_K)] is the base's mean of f, under any control."""
    _, affine, (g, gain), paths, _, start = rolled(name, c, q)
    weight = torch.exp(-paths.log_ratio)
    none = torch.zeros_like(g)
    mean, variance = affine.moments(none, none, *start)
    error = float(weight.std() / len(weight) ** 0.5)
    assert float(weight.mean()) == pytest.approx(1, abs=5 * error)
    moved = weight * (paths.states[-1][:, 0] - mean)
    assert float(moved.mean()) == pytest.approx(0, abs=5 * float(moved.std()) / len(weight) ** 0.5)


@every
def test_control_energy_is_the_divergence_from_the_base(name, c, q):
    """E S = E Σ h s² G²/2: the log ratio's martingale part has no mean."""
    *_, paths, _, _ = rolled(name, c, q)
    martingale = paths.log_ratio - paths.energy
    assert float(martingale.mean()) == pytest.approx(0, abs=5 * float(martingale.std()) / len(martingale) ** 0.5)
    assert float(martingale.var()) == pytest.approx(2 * float(paths.energy.mean()), rel=0.1)


@pytest.mark.parametrize("name", ["noise-exact", "bridge"])
def test_log_partition_is_minus_the_least_cost(name):
    """log E_base e^{cx} = E[c x] − KL at the optimum of the chain, without any spread from path to path, but for the
    share of its start that the chain remembers and cannot control."""
    c = 1.5
    _, affine, control, paths, _, start = rolled(name, c, 0.0)
    none = torch.zeros_like(control[0])
    mean, variance = affine.moments(none, none, *start)
    memory = float(affine.a.prod()) ** 2 * start[1]
    gained = c * paths.states[-1][:, 0] - paths.log_ratio
    assert float(gained.mean()) == pytest.approx(c * mean + c * c * (variance - memory) / 2, abs=1e-3 + 0.03 * memory)
    assert float(gained.var()) == pytest.approx(c * c * memory, abs=1e-9, rel=0.05)


class Scaled(ConsistentDiscretisation):
    """The chain with another volatility: s² = share · 2η + constant."""

    def __init__(self, share, constant):
        super().__init__(UniformGrid(400), offset=1e-3)
        self.share, self.constant = share, constant

    def noise_schedule(self, base):
        plain = super().noise_schedule(base)
        scaled = [self.share * v + self.constant for v in plain.variances]
        return NoiseSchedule(plain.times, [*scaled[:-1], 0.0])


@pytest.mark.parametrize(
    ("share", "constant", "mean"), [(1, 0, 1.7350), (0, 0.25, 1.3155)], ids=["memoryless", "constant"]
)
def test_only_the_memoryless_volatility_reaches_the_tilt(share, constant, mean):
    """Value-function bias: the shift is (1 − ρ²) s² c, ρ the correlation of end and start; the tilt is s² c."""
    made = Scaled(share, constant)
    chain = Affine.of(made, normal())
    assert chain.moments(*chain.optimum(C, 0, True))[0] == pytest.approx(mean, abs=6e-3)
    memory = float(chain.a.prod()) / S  # of a chain without control, whose end has the deviation s
    assert 1 + (1 - memory**2) * S**2 * C == pytest.approx(mean, abs=6e-3)


def test_a_tenth_of_the_memoryless_variance_keeps_a_memory_and_loses_its_square_of_the_shift():
    """The memory is t0^(1/10) of the time t0 where it begins, so it depends on the chain; the loss follows from it."""
    chain = Affine.of(Scaled(0.1, 0), normal())
    none = torch.zeros(len(chain.a), dtype=F64)
    mean, variance = chain.moments(none, none)
    memory = float(chain.a.prod()) / variance**0.5
    assert 0.3 < memory < 0.6
    shift = chain.moments(*chain.optimum(C, 0, True))[0] - mean
    assert shift == pytest.approx((1 - memory**2) * variance * C, rel=1e-6)
    assert shift < 0.9 * S**2 * C


def test_a_tuned_flow_that_is_a_base_is_rolled_by_its_own_drift():
    """Every state is a step of that base's chain and its noise, as the lean adjoint differentiates it; the chain of the
    base below with a control beside it is another one (THEORY 3.7: not the tilt at finite K)."""
    made, below = ConsistentDiscretisation(UniformGrid(6)), normal()
    base = TiltedField(below, Difference(from_noise(line([(1, 0, 1 + S**2 * C, 1, S**2, 0)]))))
    start = torch.randn(64, 1, dtype=F64, generator=torch.Generator().manual_seed(1))
    states = roll_out(made, base, start, Condition(), torch.Generator().manual_seed(2)).states
    again, x = torch.Generator().manual_seed(2), start
    for k, t, h, variance in made.noise_schedule(base).steps:
        x, _ = made.step(base, x, t, h, variance, Condition())
        if variance > 0:
            x = x + (h * variance) ** 0.5 * torch.randn(x.shape, dtype=F64, generator=again)
        assert torch.allclose(states[k + 1], x, atol=1e-12), k
    beside = roll_out(made, below, start, Condition(), torch.Generator().manual_seed(2), base).states
    assert float((beside[-1] - states[-1]).abs().max()) > 1e-3


def test_tuning_a_tuned_flow_adds_the_rewards():
    """c₁ and then c₂ on top is c₁ + c₂ (multiplicity of tilts)."""
    made, base = ConsistentDiscretisation(UniformGrid(40)), normal()
    first, second = 0.9, 0.6
    once = TiltedField(base, Difference(from_noise(line([(1, 0, 1 + S**2 * first, 1, S**2, 0)]))))
    chain = Affine.of(made, once)
    mean, variance = chain.moments(*chain.optimum(second, 0, True))
    assert mean == pytest.approx(1 + S**2 * (first + second), abs=2e-3)
    assert variance == pytest.approx(S**2, rel=5e-3)


@pytest.mark.parametrize("x0", [1.4, 2.0, 2.6])
@pytest.mark.parametrize(("c", "q"), [(1.5, 0.0), (1.0, 0.5)])
def test_a_bridge_reaches_the_tilt_of_every_start(x0, c, q):
    """X1 | x0 ~ N(S′(S⁻¹m + c), S′), S′ = (S⁻¹ + q)⁻¹, with m = m1 + C/S0 (x0 − m0) and S = S1 − C²/S0."""
    m0, m1, s0, s1, cross = 2, 1, 0.25, 0.49, 0.21
    base = given_start(line([(1, m0, m1, s0, s1, cross)]), BrownianBridge(0.8))
    made = ConsistentDiscretisation(PowerGrid(100, 1.5))
    chain = Affine.of(made, base, x0)
    mean, variance = chain.moments(*chain.optimum(c, q, True), x0, 0.0)
    m, s = m1 + cross / s0 * (x0 - m0), s1 - cross**2 / s0
    tilted = 1 / (1 / s + q)
    assert mean == pytest.approx(tilted * (m / s + c), abs=0.01)
    assert variance == pytest.approx(tilted, rel=0.03)


def test_the_adjoint_of_a_network_is_that_of_its_evaluation_mode():
    """Dropout would make the adjoint another function at every step."""
    like = normal()
    network = MLP((1,), ConditionShape(), width=8, depth=1, activation=partial(nn.Dropout, 0.5))
    field = TiltedField(
        LearnedField(network, like.path, like.prediction, like.conditioning, like.capabilities), Difference(like)
    )
    field.train()
    x, one = torch.randn(16, 1), torch.ones(16, 1)
    made = ConsistentDiscretisation(UniformGrid(4))
    paths = roll_out(made, field.base, x, Condition(), torch.Generator().manual_seed(0))
    first, second = (lean_adjoint(made, field.base, paths.states, Condition(), one) for _ in range(2))
    assert torch.equal(first, second) and bool(first[0].ne(one).any())
