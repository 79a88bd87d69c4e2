"""Particles reach the tilt of their chain at the known rate, with an estimate of its normaliser that has no bias."""

import math
from functools import partial

import pytest
import torch

from flowport.errors import FlowportError
from flowport.field.guidance import RewardGuidance
from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.network.pieces import pieces_of
from flowport.reward import LinearReward, Reward
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import FeynmanKac
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import ZeroVolatility
from flowport.types import Condition, Sample
from tests.laws.oracles import line
from tests.laws.problems import PROBLEMS, C, bridge, noise
from tests.laws.tilts import F64, Affine, from_noise

pytestmark = pytest.mark.slow
STEPS, X0 = 8, 2.4
GRID = UniformGrid(STEPS)


def chain(problem):
    """Mean and variance of the base's results in its discretised SDE."""
    affine = Affine.of(ConsistentDiscretisation(GRID), PROBLEMS[problem][0], X0 if problem == "bridge" else None)
    zero = torch.zeros_like(affine.a)
    return affine.moments(zero, zero, *((X0, 0.0) if problem == "bridge" else (0.0, 1.0)))


def run(problem, n, particles, gradient=False, ess=0.5, seed=0, reward=None, base=None, rows=None):
    base = base or PROBLEMS[problem][0]
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((n, 1), X0, dtype=F64)
    x = x if problem == "bridge" else torch.randn(n, 1, dtype=F64, generator=generator)
    dynamics = Dynamics(base, Condition(source=x if problem == "bridge" else None), ZeroVolatility())
    solver = FeynmanKac(reward or LinearReward([C]), 1.0, particles, gradient, ess, rows)
    return solver.results(dynamics, x, GRID.times(base.path).double(), generator)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    ("particles", "gradient", "ess"), [(1, False, 0.5), (4, False, 0.5), (4, False, 1.0), (4, True, 1.0), (3, False, 0)]
)
def test_the_normaliser_has_no_bias(problem, particles, gradient, ess):
    """E Ẑ = E e^{C x_K} = e^{C m + C² v/2} of the chain, at every number of particles."""
    mean, variance = chain(problem)
    found = run(problem, 4000, particles, gradient, ess).log_normaliser.exp() / math.exp(C * mean + C**2 * variance / 2)
    error = float(found.std()) / 4000**0.5
    assert abs(float(found.mean()) - 1) < 4 * error + 1e-9 and error < 0.02


@pytest.mark.parametrize("problem", PROBLEMS)
def test_one_particle_is_the_base_and_its_bound_is_the_divergence_from_the_tilt(problem):
    """log Z − E log Ẑ = log Z − E r = KL(base ‖ tilt) = C² v/2."""
    mean, variance = chain(problem)
    found = run(problem, 4000, 1)
    assert float(found.states[-1].mean()) == pytest.approx(mean, abs=4 * (variance / 4000) ** 0.5)
    bound = C * mean + C**2 * variance / 2 - float(found.log_normaliser.mean())
    assert bound == pytest.approx(C**2 * variance / 2, abs=4 * C * (variance / 4000) ** 0.5)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("gradient", [False, True])
def test_results_reach_the_tilt_of_the_chain_as_particles_grow(problem, gradient):
    mean, variance = chain(problem)
    end = run(problem, 1500, 64, gradient).states[-1]
    assert float(end.mean()) == pytest.approx(mean + variance * C, abs=4 * (variance / 1500) ** 0.5 + 0.01)
    assert float(end.var()) == pytest.approx(variance, rel=0.15)


def test_the_distance_falls_as_one_over_the_particles():
    """By the bound: log Z − E log Ẑ ≈ Var(Ẑ)/2Z² = (e^{C² v} − 1)/2P of importance sampling without resampling."""
    mean, variance = chain("noise")
    log_z, rate = C * mean + C**2 * variance / 2, math.expm1(C**2 * variance) / 2
    for particles in (8, 32):
        lost = log_z - run("noise", 4000, particles, ess=0).log_normaliser
        assert float(lost.mean()) == pytest.approx(rate / particles, abs=4 * float(lost.std()) / 4000**0.5, rel=0.15)


def test_a_twisted_proposal_is_exact_for_a_linear_reward_of_a_gaussian_up_to_its_steps():
    """∇V is then the optimal control: even one particle draws from the tilt, and Ẑ hardly varies."""
    mean, variance = chain("noise")
    blind, guided = run("noise", 2000, 1), run("noise", 2000, 1, gradient=True)
    assert float(guided.log_normaliser.std()) < 0.1 * float(blind.log_normaliser.std())
    assert float(guided.states[-1].mean()) == pytest.approx(mean + variance * C, abs=0.06)


class Side(Reward):
    """log 3 on the right of 0, without a gradient."""

    differentiable = False

    def forward(self, x1, condition):
        return math.log(3) * (x1[:, 0] > 0).to(x1)


def test_a_black_box_moves_the_weights_of_modes_as_it_says():
    base = from_noise(line([(1, 0, -1.5, 1, 0.05, 0), (1, 0, 1.5, 1, 0.05, 0)]))
    end = run("noise", 2000, 32, reward=Side(), base=base).states[-1]
    assert float((end > 0).double().mean()) == pytest.approx(0.75, abs=4 * (0.1875 / 2000) ** 0.5 + 0.01)
    with pytest.raises(FlowportError, match="solver=twisted needs the reward's gradient"):
        run("noise", 4, 2, True, reward=Side(), base=base)


def test_every_start_of_a_bridge_has_its_own_law():
    base, generator = bridge(), torch.Generator().manual_seed(0)
    x = torch.tensor([[1.0], [3.0]], dtype=F64).repeat_interleave(500, 0)
    translator = Translator(base, FeynmanKac(LinearReward([C]), particles=32), GRID, ZeroVolatility(), chunk=300)
    found = translator.forward(Sample(x), generator)
    assert found.nfe == 32 * STEPS
    for k, x0 in enumerate((1.0, 3.0)):
        affine = Affine.of(ConsistentDiscretisation(GRID), base, x0)
        zero = torch.zeros_like(affine.a)
        mean, variance = affine.moments(zero, zero, x0, 0.0)
        end = found.end[500 * k : 500 * (k + 1)]
        assert float(end.mean()) == pytest.approx(mean + variance * C, abs=4 * (variance / 500) ** 0.5 + 0.02)


def test_lines_of_ancestors_are_whole_paths_and_padding_stays():
    base, generator = noise(), torch.Generator().manual_seed(0)
    x = torch.randn(50, 1, dtype=F64, generator=generator)
    mask = (torch.arange(50) < 40)[:, None]
    dynamics = Dynamics(base, Condition(), ZeroVolatility(), mask=mask)
    solver = FeynmanKac(LinearReward([3.0]), particles=16, ess=1.0)
    states = solver.solve(dynamics, x, GRID.times(base.path).double(), generator, all_states=True).states
    assert states.shape == (STEPS + 1, 50, 1)
    assert torch.equal(states[:, 40:], x[None, 40:].expand(STEPS + 1, -1, -1))
    slope = torch.corrcoef(torch.stack([states[-2, :40, 0], states[-1, :40, 0]]))[0, 1]
    assert float(slope) > 0.99, "the last step is a function of the state before it"
    assert not torch.equal(states[0, :40], x[:40]), "a resampled line may start from fresh noise"


class Counted(Side):
    """The same with a gradient, and the number of points that it was asked for at a time."""

    differentiable = True

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x1, condition):
        self.asked.append(len(x1))
        return C * x1[:, 0]


@pytest.mark.parametrize("gradient", [False, True])
def test_particles_in_pieces_end_where_all_at_once_do(gradient):
    """The solver's rows, or those that field and reward have already, which are as before afterwards."""
    base, reward = noise(), Counted()
    base.register_forward_pre_hook(lambda _, given: reward.asked.append(len(given[0])))
    whole = run("noise", 20, 4, gradient, reward=reward, base=base)
    assert max(reward.asked) == 80
    for own in (7, None):
        reward.asked.clear()
        with pieces_of(None if own else 7, base, reward):
            found = run("noise", 20, 4, gradient, reward=reward, base=base, rows=own)
        assert max(reward.asked) == 7 and reward.piece_rows is base.piece_rows is None
        torch.testing.assert_close(found.states, whole.states)
        torch.testing.assert_close(found.log_normaliser, whole.log_normaliser)
    with pytest.raises(FlowportError, match="rows=0 must be at least 1"):
        FeynmanKac(rows=0)


def test_what_it_cannot_serve_is_refused():
    make = partial(Translator, grid=GRID, volatility=ZeroVolatility())
    with pytest.raises(FlowportError, match="solver=feynman_kac needs a reward: write reward=<name>"):
        make(noise(), FeynmanKac())
    with pytest.raises(FlowportError, match="leave guidance=reward out"):
        make(RewardGuidance(noise(), LinearReward([C])), FeynmanKac(LinearReward([C])))
    with pytest.raises(FlowportError, match="runs from source to target only"):
        make(noise(), FeynmanKac(LinearReward([C]))).backward(Sample(torch.zeros(2, 1, dtype=F64)), torch.Generator())
    for wrong in ({"strength": 0.0}, {"particles": 0}, {"ess": 1.5}):
        with pytest.raises(FlowportError, match="solver=feynman_kac needs strength > 0"):
            FeynmanKac(LinearReward([C]), **wrong)
