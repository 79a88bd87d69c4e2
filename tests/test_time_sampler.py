"""Times have the laws that their classes declare."""

import math

import pytest
import torch
from scipy import stats

from flowport.errors import Refusal
from flowport.time_sampler import Beta, LogitNormal, Power, Stratified, Uniform
from tests.zoo import TIME_SAMPLERS, named

N = 20_000
LAWS = [
    (Uniform(), stats.uniform()),
    (LogitNormal(0.3, 0.8), None),
    (Power(2.0), stats.beta(0.5, 1)),
    (Power(0.5), stats.beta(2, 1)),
    (Beta(1.0, 1.5), stats.beta(1.0, 1.5)),
    (Beta(2.0, 0.7), stats.beta(2.0, 0.7)),
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


@pytest.mark.parametrize("n", [1, 7, 256])
def test_stratified_has_one_time_in_every_cell_in_random_order(n):
    t = draw(Stratified(), n)
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
    "make", [lambda: LogitNormal(scale=0), lambda: Power(0), lambda: Beta(0, 1), lambda: Beta(1, -1)]
)
def test_impossible_parameters_are_refused(make):
    with pytest.raises(Refusal, match="time_sampler="):
        make()
