"""Times have the laws that their classes declare."""

import math

import pytest
import torch
from scipy import stats

from flowport.capabilities import Capabilities, NoNoise
from flowport.conditioning import Unconditional
from flowport.errors import FlowportError
from flowport.field import LearnedField
from flowport.objective import FlowMatching
from flowport.objective.time_sampler import (
    AdaptiveTimeSampler,
    BetaTimeSampler,
    CosmapTimeSampler,
    LogitNormalTimeSampler,
    ModeTimeSampler,
    PowerTimeSampler,
    StratifiedTimeSampler,
    UniformTimeSampler,
)
from flowport.objective.weighting import UniformWeighting
from flowport.path import LinearPath
from flowport.prediction import VelocityPrediction
from flowport.types import Pair, Sample
from tests.zoo import TIME_SAMPLERS, named

N = 20_000
LAWS = [
    (UniformTimeSampler(), stats.uniform()),
    (LogitNormalTimeSampler(0.3, 0.8), None),
    (PowerTimeSampler(2.0), stats.beta(0.5, 1)),
    (PowerTimeSampler(0.5), stats.beta(2, 1)),
    (BetaTimeSampler(1.0, 1.5), stats.beta(1.0, 1.5)),
    (BetaTimeSampler(2.0, 0.7), stats.beta(2.0, 0.7)),
]


def draw(sampler, n=N, seed=0):
    return sampler(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("sampler", "law"), LAWS)
def test_law_by_kolmogorov(sampler, law):
    """One seed; a true law fails with probability 1e-4, a wrong exponent or swapped parameters always."""
    t = draw(sampler).double()
    if law is None:
        t, law = torch.logit(t), stats.norm(0.3, 0.8)
    assert stats.kstest(t.numpy(), law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("make", **named(TIME_SAMPLERS))
def test_times_have_the_declared_density(make):
    """Of means of ten waves, each within 4 standard errors; the density by the midpoint rule."""
    sampler, t = make(), draw(make()).double()
    middle = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = sampler.density(middle)
    assert float(density.mean()) == pytest.approx(1, abs=3e-3)  # Beta and Power are infinite at an end
    for k in range(1, 11):
        wave = torch.cos(torch.pi * k * middle)
        mean, spread = float((density * wave).mean()), float((density * wave**2).mean())
        assert abs(float(torch.cos(torch.pi * k * t).mean()) - mean) < 4 * math.sqrt(spread / N) + 3e-3


def test_sd3_times_in_closed_form():
    """SD3 writes t = 1 for noise, and both laws are symmetric: t(u) = f(1 − u) = 1 − f(u)."""
    u = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = 1 - u - 1.29 * (torch.cos(torch.pi / 2 * u) ** 2 - 1 + u)
    torch.testing.assert_close(ModeTimeSampler(1.29)._time(u), 1 - f)
    found = CosmapTimeSampler()(5, torch.Generator().manual_seed(0))
    u = torch.rand(5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, 1 - 1 / (torch.tan(torch.pi / 2 * u) + 1))


@pytest.mark.parametrize("n", [1, 7, 256])
def test_stratified_has_one_time_in_every_cell_in_random_order(n):
    t = draw(StratifiedTimeSampler(), n)
    assert sorted((t.double() * n).floor().long().tolist()) == list(range(n))
    if n > 100:
        assert abs(torch.corrcoef(torch.stack([t, torch.arange(n).float()]))[0, 1]) < 4 / math.sqrt(n)
        inside = (t * n) % 1
        assert stats.kstest(inside.numpy(), stats.uniform().cdf).pvalue > 1e-4


@pytest.mark.parametrize("make", **named(TIME_SAMPLERS))
def test_times_are_float32_in_the_unit_interval_and_follow_the_generator(make):
    t = draw(make())
    assert t.shape == (N,) and t.dtype == torch.float32 and bool(((t >= 0) & (t <= 1)).all())
    assert torch.equal(t, draw(make())) and not torch.equal(t, draw(make(), seed=1))
    assert make()(0, torch.Generator()).shape == (0,)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogitNormalTimeSampler(scale=0),
        lambda: PowerTimeSampler(0),
        lambda: BetaTimeSampler(0, 1),
        lambda: BetaTimeSampler(1, -1),
        lambda: ModeTimeSampler(2.0),
        lambda: ModeTimeSampler(-1.1),
        lambda: AdaptiveTimeSampler(0),
        lambda: AdaptiveTimeSampler(memory=1.0),
        lambda: AdaptiveTimeSampler(explore=0.0),
    ],
)
def test_impossible_parameters_are_refused(make):
    with pytest.raises(FlowportError, match="time_sampler="):
        make()


def peak(t):
    """A loss that most times have little of, as near the ends of a flow."""
    return 0.1 + 5 * torch.exp(-((t - 0.8) ** 2) / 0.005)


def learnt(**options):
    sampler = AdaptiveTimeSampler(**options)
    for step in range(50):
        t = draw(sampler, 256, step)
        sampler.learn(t, peak(t))
    return sampler


def quadrature(sampler):
    """Cells and offsets of u on a fine grid: mean and second moment of the weighted loss, without chance."""
    inside = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    t = (torch.arange(sampler.cells)[:, None] + inside) / sampler.cells
    share = sampler.share.double() / 400
    terms = sampler.importance(t.flatten()).view_as(t) * peak(t)
    return float((share[:, None] * terms).sum()), float((share[:, None] * terms**2).sum())


def test_adaptive_times_keep_the_mean_and_lower_the_variance():
    plain_mean, plain_square = quadrature(AdaptiveTimeSampler())
    mean, square = quadrature(learnt())
    assert mean == pytest.approx(plain_mean, rel=1e-6)
    assert square - mean**2 < 0.1 * (plain_square - plain_mean**2)


def test_adaptive_times_are_drawn_by_their_shares_and_uniform_before_they_have_learnt():
    sampler = learnt()
    counts = torch.bincount(sampler._cell(draw(sampler)), minlength=32).double()
    expected = N * sampler.share.double()
    assert stats.chisquare(counts.numpy(), (expected / expected.sum() * N).numpy()).pvalue > 1e-4
    assert float(sampler.share.max()) > 5 / 32 and float(sampler.share.min()) >= 0.1 / 32
    torch.testing.assert_close(AdaptiveTimeSampler().share, torch.full((32,), 1 / 32))


def test_a_share_is_the_root_of_the_mean_square_of_a_cell():
    sampler = AdaptiveTimeSampler(cells=2, explore=0.2)
    for _ in range(400):
        sampler.learn(torch.tensor([0.1, 0.2, 0.3, 0.9]), torch.tensor([1.0, 1.0, 1.0, 3.0]))
    torch.testing.assert_close(sampler.share, 0.8 * torch.tensor([0.25, 0.75]) + 0.1, rtol=5e-3, atol=0)


def test_adaptive_times_leave_the_loss_what_it_is_and_learn_in_training_alone():
    """Loss of a known field over 40,000 pairs: the two means differ by less than 4 of their standard errors."""
    capabilities = Capabilities(NoNoise(), False)
    field = LearnedField(Bent(), LinearPath(), VelocityPrediction(), Unconditional(), capabilities)
    pair = Pair(Sample(torch.zeros(40_000, 1)), Sample(torch.ones(40_000, 1)))
    objective, plain = (
        FlowMatching(AdaptiveTimeSampler(), UniformWeighting()),
        FlowMatching(UniformTimeSampler(), UniformWeighting()),
    )
    state = objective.time_sampler
    objective.eval().loss(field, pair, torch.Generator().manual_seed(0))
    assert state.counts.sum() == 0
    objective.train()
    for step in range(3):
        objective.loss(field, pair, torch.Generator().manual_seed(step))
    assert state.counts.sum() > 80_000
    found, known = (o.loss(field, pair, torch.Generator().manual_seed(9)).per_sample for o in (objective, plain))
    error = float((found.var() + known.var()) / 40_000) ** 0.5
    assert abs(float(found.mean() - known.mean())) < 4 * error
    assert float(found.var()) < 0.2 * float(known.var())
    assert set(objective.state_dict()) == {"time_sampler.counts", "time_sampler.squares"} and not plain.state_dict()


class Bent(torch.nn.Module):
    """A network that is wrong near t = 0.8."""

    def forward(self, x, t, condition):
        return 1 + peak(t)[:, None]
