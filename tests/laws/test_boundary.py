"""Both ends of every path: declared gaps, the start law, finite coefficients, fields and losses."""

import pytest
import torch

from flowport.field import LearnedField
from flowport.objective import FlowMatching
from flowport.objective.time_sampler import TimeSampler
from flowport.objective.weighting import LogSNRWeighting, ScoreMatchingWeighting, UniformWeighting
from flowport.path import FunctionsPath, TabulatedPath, VarianceExplodingPath, VariancePreservingPath
from flowport.prediction import BridgePrediction, EDMPrediction, VelocityPrediction
from flowport.prediction.base import MARGIN
from flowport.types import Pair, Sample
from tests.laws.oracles import JointMixture, compositions, points, tensor
from tests.zoo import PATHS, WEIGHTINGS, named

ENDS = [0.0, 1e-6, 1 - 1e-6, 1.0]


@pytest.mark.parametrize("make", **named(PATHS))
def test_ends_are_source_and_target_up_to_the_declared_gaps(make):
    path, zero, one = make(), tensor(0.0), tensor(1.0)
    at = {k: getattr(path, k) for k in ("alpha", "beta", "gamma")}
    assert float(at["beta"](zero)) == pytest.approx(path.start_gap * float(at["alpha"](zero)), abs=1e-12)
    left = max(float(at["alpha"](one)), float(at["gamma"](one)))
    assert left == pytest.approx(path.end_gap * float(at["beta"](one)), abs=1e-12)
    if not isinstance(path, VarianceExplodingPath):
        assert float(at["alpha"](zero)) == pytest.approx(1, abs=1e-4)
    if not isinstance(path, (FunctionsPath, TabulatedPath)):
        assert float(at["beta"](one)) == pytest.approx(1, abs=1e-12)


def test_gaps_of_the_zoo_are_the_known_ones():
    gaps = {name: (make().start_gap, make().end_gap) for name, make in PATHS}
    exact = 1e-12
    assert gaps.pop("linear_sigma_min") == pytest.approx((0, 0.05), abs=exact)
    assert gaps.pop("linear_noise") == pytest.approx((0, 0.4), abs=exact)
    beta = torch.exp(torch.tensor(-0.5 * (0.1 + 0.5 * 19.9), dtype=torch.float64))  # ½∫r = ½(r_min + ½(r_max − r_min))
    for name in ("variance_preserving", "diffusion"):
        assert gaps.pop(name) == pytest.approx((float(beta / (1 - beta**2).sqrt()), 0), abs=exact)
    table = torch.cumprod(1 - torch.linspace(1e-3, 0.2, 100), 0).double()
    first, last = float((table[-1] / (1 - table[-1])).sqrt()), float((1 / table[0] - 1).sqrt())
    assert gaps.pop("tabulated") == pytest.approx((first, last), rel=1e-9)
    assert gaps.pop("variance_exploding") == pytest.approx((1 / 20, 0), abs=exact)
    for gap in gaps.values():
        assert gap == pytest.approx((0, 0), abs=exact)


@pytest.mark.parametrize("make", **named(PATHS))
def test_start_law_is_the_path_at_zero_without_its_target(make):
    path, (x0, z) = make(), points(5)
    expected = path.alpha(tensor(0.0)) * x0 + path.gamma(tensor(0.0)) * z
    torch.testing.assert_close(path.start(x0, z), expected)
    if path.start_gap == 0 and path.interval[0] == 0:
        pair = Pair(Sample(x0), Sample(torch.full_like(x0, 7.0)))
        sample = path.sample(pair, torch.zeros(5, dtype=torch.float64), z if path.bridge else None)
        torch.testing.assert_close(path.start(x0, z), sample.x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", **named(PATHS))
def test_coefficients_are_finite_at_the_edges_of_the_interval(make, dtype):
    path = make()
    low, high = path.interval
    assert 0 <= low < high <= 1
    edges = torch.tensor([low, high], dtype=dtype)
    assert torch.equal(path.clamp(torch.tensor([-1.0, 0.5, 2.0])), torch.tensor([low, 0.5, high]))
    c = path.coefficients(edges)
    for value in (c.alpha, c.beta, c.dalpha, c.dbeta, *((c.gamma, c.dgamma) if path.bridge else ())):
        assert value.dtype == dtype and value.shape == (2,) and value.isfinite().all()


def single(pairing: JointMixture) -> JointMixture:
    return JointMixture(*(v.float() for v in vars(pairing).values()))


@pytest.mark.parametrize("c", **compositions())
def test_fields_are_finite_and_near_the_double_precision_ones_at_both_ends(c):
    for t in ENDS:
        finite_at(c, t)


def finite_at(c, t):
    x, x0 = points(4)
    x = 0.9 * x0 + 0.1 * x if c.sees_source else x
    exact, field = c.field(c.joint("mixture")), c.field(single(c.joint("mixture")))
    time = torch.full((4,), t)
    arguments = (x.float(), time, c.condition(x0.float()))
    doubled = (x, time.double(), c.condition(x0))
    found, wanted = field.velocity(*arguments), exact.velocity(*doubled)
    assert found.dtype == torch.float32 and found.isfinite().all() and distance(found, wanted) < 1e-3
    if not field.capabilities.score:
        return
    (velocity, score), (_, ideal) = field.velocity_and_score(*arguments), exact.velocity_and_score(*doubled)
    assert velocity.isfinite().all() and score.isfinite().all()
    # Given x0, one head tells noise from target by β γ̇ − γ β̇, which is of order t² or t³ on smooth bridges.
    assert distance(score, ideal) < (0.2 if c.sees_source else 0.05)
    # E[x1 | x] is ill-conditioned in single precision where its weight is 1e-6: finite is all that can be asked.
    assert all(end is None or bool(end.isfinite().all()) for end in field.endpoints(*arguments))


def distance(value, ideal):
    return float((value.double() - ideal).norm() / (1 + ideal.norm()))


class At(TimeSampler):
    def __init__(self, t: float) -> None:
        self.t = t

    def __call__(self, n: int, generator: torch.Generator) -> torch.Tensor:
        return torch.full((n,), self.t)

    def density(self, t: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(t)


class Still(torch.nn.Module):
    def forward(self, x, t, condition):
        return torch.cat([x] * self.heads, 1)


def blind(c):
    return c.path.bridge and not c.sees_source


def needs_one_error(weighting):
    return isinstance(weighting, (LogSNRWeighting, ScoreMatchingWeighting))


@pytest.mark.parametrize("c", **compositions())
def test_weights_are_finite_and_stay_in_single_precision_at_both_ends(c):
    t, field = torch.tensor([*ENDS, 0.5]), c.field(single(c.joint("gaussian")))
    for _, make in WEIGHTINGS:
        weighting = make()
        if needs_one_error(weighting) and (blind(c) or not field.capabilities.score):
            continue
        for density in (torch.ones_like(t), torch.zeros_like(t)):
            w = weighting(t, field, density)
            w = torch.ones_like(t) if w is None else w
            assert w.shape == t.shape and w.dtype == torch.float32
            assert bool((w.isfinite() & (w >= 0)).all()) and float(w[-1]) > 0


class Halved(torch.nn.Module):
    """A network that insists on half precision for points, and on single precision for times."""

    def __init__(self, dtype, heads):
        super().__init__()
        self.weight, self.heads = torch.nn.Parameter(torch.ones((), dtype=dtype)), heads

    def forward(self, x, t, condition):
        assert x.dtype == self.weight.dtype and t.dtype == torch.float32
        return torch.cat([self.weight * torch.tanh(x)] * self.heads, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("c", **compositions())
def test_learnt_fields_of_either_precision_are_finite_at_both_ends(c, dtype):
    oracle = c.field(c.joint("gaussian"))
    field = LearnedField(
        Halved(dtype, c.prediction.heads), c.path, c.prediction, oracle.conditioning, oracle.capabilities
    )
    x, x0 = (v.float() for v in points(4))
    for end in ENDS:
        t, conditioned = torch.full((4,), end), c.condition(x0)
        found = [field.velocity(x, t, conditioned)]
        if field.capabilities.score:
            found += [*field.velocity_and_score(x, t, conditioned), *field.velocity_and_end(x, t, conditioned)]
        for value in found:
            assert value.dtype == torch.float32 and bool(value.isfinite().all())


@pytest.mark.parametrize("c", **compositions())
def test_loss_is_finite_whatever_time_is_drawn(c):
    """A rounded draw reaches 0 and 1 themselves; a score target divides by a weight that vanishes there."""
    oracle, network = c.field(c.joint("gaussian")), Still()
    network.heads = c.prediction.heads
    field = LearnedField(network, c.path, c.prediction, oracle.conditioning, oracle.capabilities)
    x, x0 = points(8)
    pair = Pair(Sample(x0.float()), Sample(x.float()))
    for t in (0.0, 1.0):
        for _, make in WEIGHTINGS:
            if needs_one_error(make()) and (blind(c) or not oracle.capabilities.score):
                continue
            loss = FlowMatching(At(t), make()).loss(field, pair, torch.Generator().manual_seed(0)).per_sample
            assert loss.shape == (8,) and loss.isfinite().all() and float(loss.max()) < 1e8


def test_variance_preserving_keeps_the_variance_of_a_white_pair():
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    path = VariancePreservingPath()
    torch.testing.assert_close(path.alpha(t) ** 2 + path.beta(t) ** 2, torch.ones_like(t))


@pytest.mark.parametrize("c", **compositions())
def test_objective_draws_times_exactly_where_the_field_is_read(c):
    seen = []

    class Spy(UniformWeighting):
        def __call__(self, t, field, density):
            seen.append(float(t[0]))
            return super().__call__(t, field, density)

    x, x0 = points(3)
    x, field = x + 1, c.field(c.joint("gaussian"))
    for t in (0.0, 0.5, 1.0):
        FlowMatching(At(t), Spy()).loss(field, Pair(Sample(x0), Sample(x)), torch.Generator().manual_seed(0))
    low, high = c.path.interval
    if not isinstance(c.prediction, (VelocityPrediction, BridgePrediction)):
        low, high = max(low, MARGIN), min(high, 1 - MARGIN)
    middle = float(c.prediction.times(c.path, torch.tensor([0.5], dtype=torch.float64))[0])
    assert isinstance(c.prediction, EDMPrediction) or middle == pytest.approx((low + high) / 2, abs=1e-12)
    assert seen == pytest.approx([low, middle, high], abs=1e-12)
