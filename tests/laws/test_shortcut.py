"""Mean velocities over a step: the Gaussian flow map, its identities, and the objective that is exact at it."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import jvp

from flowport.capabilities import NoNoise
from flowport.distribution import EightGaussians, Moons
from flowport.errors import FlowportError
from flowport.field import AnalyticField
from flowport.objective import ShortcutObjective
from flowport.objective.time_sampler import AdaptiveTimeSampler, UniformTimeSampler
from flowport.path import LinearPath, Path, TrigonometricPath
from flowport.prediction import TargetPrediction, VelocityPrediction
from flowport.sampling.dynamics import Dynamics
from flowport.sampling.grid import UniformGrid
from flowport.sampling.solver import ShortcutSolver
from flowport.sampling.translator import Translator
from flowport.sampling.volatility import ZeroVolatility
from flowport.tensors import over
from flowport.training.compose import compose
from flowport.types import Condition, Pair, Sample
from tests.laws.oracles import Composition, line, tensor
from tests.zoo import PATHS, named

M0, M1, S0, S1, C = 0.5, 1.5, 0.8, 0.3, -0.1
X = torch.linspace(-2, 2, 16, dtype=torch.float64)[:, None]
T, D = torch.linspace(0.05, 0.45, 16, dtype=torch.float64), torch.linspace(0.5, 0.02, 16, dtype=torch.float64)
NONE = Condition()
SEED = torch.Generator().manual_seed(0)


def carried(path: Path, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """X_{t,s}(x) of a Gaussian pair: the flow keeps (x − μ)/√variance."""

    def law(t: Tensor) -> tuple[Tensor, Tensor]:
        a, b, g = path.alpha(t), path.beta(t), path.gamma(t)
        return over(a * M0 + b * M1, x), over((a**2 * S0 + b**2 * S1 + 2 * a * b * C + g**2).sqrt(), x)

    (mean, deviation), (later, wider) = law(t), law(s)
    return later + wider / deviation * (x - mean)


class Exact(AnalyticField):
    """The mean velocity of the exact flow map."""

    sees_step = True

    def average_velocity(self, x: Tensor, t: Tensor, step: Tensor, condition: Condition) -> Tensor:
        far, d = carried(self.path, x, t, t + step), over(step, x)
        return torch.where(d > 0, (far - x) / torch.where(d > 0, d, 1), self.velocity(x, t, condition))


class EulerMean(AnalyticField):
    """That of Euler's method with 8 steps for the whole way: the fixed point of the objective, at every length."""

    sees_step = True

    def average_velocity(self, x: Tensor, t: Tensor, step: Tensor, condition: Condition) -> Tensor:
        far, at, d = x, t, over(step, x)
        for k in range(8):
            h = torch.where(8 * step > k + 0.5, 1 / 8, 0.0).to(x)
            far, at = far + over(h, x) * self.velocity(far, at, condition), at + h
        return torch.where(d > 0, (far - x) / torch.where(d > 0, d, 1), self.velocity(x, t, condition))


def oracle(kind: type[AnalyticField], path: Path) -> AnalyticField:
    plain = Composition(path, NoNoise(), VelocityPrediction()).field(line([(1, M0, M1, S0, S1, C)]))
    return kind(plain.joint, path, plain.prediction, plain.conditioning, plain.capabilities)


@pytest.mark.parametrize("make", **named(PATHS))
def test_the_flow_map_of_a_gaussian_obeys_its_identities(make):
    """∂_s X = v(X, s); the semigroup; MeanFlow (Geng et al. 2025) for time that runs from the source: ū = v + (s − t)
    (∂_t + v ∂_x) ū at a fixed end s; and the shortcut identity, which is the objective's target."""
    path, end = make(), T + D
    field = oracle(Exact, path)
    far, speed = jvp(lambda s: carried(path, X, T, s), (end,), (torch.ones_like(end),))
    torch.testing.assert_close(speed, field.velocity(far, end, NONE), rtol=0, atol=1e-10)
    middle = T + D / 3
    way = carried(path, carried(path, X, T, middle), middle, end)
    torch.testing.assert_close(way, far, rtol=0, atol=1e-10)
    v = field.velocity(X, T, NONE)

    def mean(x: Tensor, t: Tensor) -> Tensor:
        return (carried(path, x, t, end) - x) / over(end - t, x)

    value, slope = jvp(mean, (X, T), (v, torch.ones_like(T)))
    torch.testing.assert_close(value, v + over(D, X) * slope, rtol=0, atol=1e-10)
    wanted = ShortcutObjective(UniformTimeSampler(), halvings=9).target(field, X, T, D, NONE)
    torch.testing.assert_close(wanted, field.average_velocity(X, T, D, NONE), rtol=0, atol=1e-10)
    torch.testing.assert_close(wanted, value, rtol=0, atol=1e-10)


def test_the_shortest_step_learns_two_euler_steps():
    field, h = oracle(Exact, TrigonometricPath()), 1 / 16
    half = X + h * field.velocity(X, T, NONE)
    end = half + h * field.velocity(half, T + h, NONE)
    step = torch.full_like(T, 1 / 8)
    torch.testing.assert_close(
        ShortcutObjective(UniformTimeSampler(), halvings=4).target(field, X, T, step, NONE), (end - X) * 8
    )


class Pushed(EulerMean):
    """With a number of its own added to every row's output."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.push = torch.zeros(20_000, 1, dtype=torch.float64, requires_grad=True)

    def average_velocity(self, x, t, step, condition):
        mean = super().average_velocity(x, t, step, condition)
        return mean + self.push if len(x) == len(self.push) else mean


@pytest.mark.parametrize("path", [LinearPath(), TrigonometricPath()])
def test_the_loss_is_stationary_at_the_mean_velocity(path):
    """Rows of long steps: no error at all, whatever the step. Rows of velocities: five standard errors, one seed."""
    field = oracle(Pushed, path)
    z = torch.randn(2, 20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x0 = M0 + math.sqrt(S0) * z[0]
    x1 = M1 + C / S0 * (x0 - M0) + math.sqrt(S1 - C * C / S0) * z[1]
    objective = ShortcutObjective(UniformTimeSampler(), share=0.25, halvings=3)
    loss = objective.loss(field, Pair(Sample(x0), Sample(x1)), torch.Generator().manual_seed(2)).per_sample
    loss.sum().backward()
    slope, few = field.push.grad, 5000
    assert float(slope[:few].abs().max()) < 1e-5
    rest = slope[few:]
    assert float(rest.abs().mean()) > 0.1
    assert abs(float(rest.mean())) < 5 * float(rest.std()) / math.sqrt(len(rest))


def test_the_steps_of_the_objective_tile_the_way():
    """Every length 1, ½, ¼ as often as the others, from every multiple of itself as often."""
    seen = []

    class Seen(EulerMean):
        def average_velocity(self, x, t, step, condition):
            seen.append((t, step))
            return super().average_velocity(x, t, step, condition)

    x = torch.zeros(12_000, 1, dtype=torch.float64)
    ShortcutObjective(UniformTimeSampler(), share=0.5, halvings=3).loss(
        oracle(Seen, LinearPath()), Pair(Sample(x), Sample(x)), SEED
    )
    t, step = seen[-1]
    assert bool((step[6000:] == 0).all())
    places = {(d, k * d): 6000 * d / 3 for d in (1.0, 0.5, 0.25) for k in range(round(1 / d))}
    found = list(zip(step[:6000].tolist(), t[:6000].tolist(), strict=True))
    assert set(found) == set(places)
    for place, wanted in places.items():
        assert abs(found.count(place) - wanted) < 5 * math.sqrt(wanted)


@pytest.mark.parametrize("times", [(0.0, 1.0), (0.0, 0.5, 1.0), (0.0, 0.1, 0.7, 1.0)])
def test_the_solver_is_exact_in_any_number_of_steps(times):
    field = oracle(Exact, TrigonometricPath())
    found = ShortcutSolver().solve(Dynamics(field, NONE, ZeroVolatility()), X, tensor(*times), SEED)
    torch.testing.assert_close(found.end, carried(field.path, X, 0 * T, 0 * T + 1), rtol=0, atol=1e-10)
    assert found.nfe == len(times) - 1


def test_what_was_not_learnt_is_refused_by_name():
    plain = oracle(AnalyticField, LinearPath())
    with pytest.raises(FlowportError, match=r"solver=shortcut needs a flow that learnt .*objective=shortcut"):
        Translator(plain, ShortcutSolver(), UniformGrid(1), ZeroVolatility())
    with pytest.raises(FlowportError, match="objective=shortcut"):
        plain.average_velocity(X, T, D, NONE)
    with pytest.raises(FlowportError, match="source to target only"):
        ShortcutSolver().solve(Dynamics(oracle(Exact, LinearPath()), NONE, ZeroVolatility()), X, tensor(1, 0), SEED)
    with pytest.raises(FlowportError, match="prediction=velocity"):
        compose(
            EightGaussians(), Moons(), objective=ShortcutObjective(UniformTimeSampler()), prediction=TargetPrediction()
        )
    for words in ({"share": 0}, {"share": 1}, {"halvings": 0}):
        with pytest.raises(FlowportError, match="share in"):
            ShortcutObjective(UniformTimeSampler(), **words)


def test_a_flow_that_learns_long_steps_is_built_to_see_them():
    field = compose(EightGaussians(), Moons(), objective=ShortcutObjective(UniformTimeSampler()))[0].field
    x, t = X.float().expand(-1, 2), T.float()
    still = field.average_velocity(x, t, 0 * t, NONE)
    assert torch.equal(still, field.velocity(x, t, NONE))
    assert bool((field.average_velocity(x, t, D.float(), NONE) != still).any(1).all())


def test_a_density_of_times_that_the_loss_would_ignore_is_refused():
    with pytest.raises(FlowportError, match="time_sampler=adaptive needs: use another time_sampler"):
        ShortcutObjective(AdaptiveTimeSampler())
