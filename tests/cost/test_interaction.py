"""The interaction of a cost: unchanged by f(x0) + g(x1), by a shift, and nearly by outliers."""

import pytest
import torch

from flowport.cost import Cost, SquaredEuclideanCost, SumCost
from flowport.cost.interaction import interaction
from flowport.coupling import SinkhornCoupling, UnbalancedCoupling
from flowport.types import Pair, Sample
from tests.coupling.batches import gaussians, seeded, squares


class Fixed(Cost):
    """A cost that is given as a matrix."""

    def __init__(self, cost):
        super().__init__()
        self.cost = cost

    def __call__(self, source, target):
        return self.cost


def box(n, d, seed=0):
    """Points of a box, centred with covariance I exactly; no row is an outlier."""
    x = torch.rand(n, d, generator=seeded(seed), dtype=torch.float64) * 2 - 1
    if d == 1:
        x = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T


@pytest.mark.parametrize(("n", "m", "d"), [(300, 300, 2), (200, 300, 3), (300, 200, 1)])
def test_equal_covariances_give_the_squared_distance_of_the_centred_points(n, m, d):
    x, y = box(n, d), box(m, d, 1)
    shift = torch.arange(1, d + 1, dtype=torch.float64) * 7
    found = interaction((x[:, None] - y - shift).square().sum(2))
    torch.testing.assert_close(found.reduced(), (x[:, None] - y).square().sum(2), rtol=1e-3, atol=1e-3)
    assert float(found.scale) == pytest.approx(2 * d, rel=0.05)  # 2 tr Σ; a box in 3 dimensions has corners


def test_unequal_covariances_are_made_equal():
    x, y = box(256, 1), box(256, 1, 1)
    found = interaction((0.5 * x[:, None] - 8 * y).square().sum(2))  # ½ · 8 = 2 · 2
    torch.testing.assert_close(found.reduced(), (2 * x[:, None] - 2 * y).square().sum(2), rtol=1e-3, atol=1e-3)
    assert float(found.scale) == pytest.approx(2 * 0.5 * 8, rel=1e-3)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (30, 50), (50, 30)])
def test_separable_terms_change_nothing(n, m):
    cost = squares(gaussians(n, m, 3))
    f, g = (200 * torch.randn(k, generator=seeded(k), dtype=torch.float64) for k in (n, m))
    other = cost + f[:, None] + g
    first, second = interaction(cost), interaction(other)
    torch.testing.assert_close(first.scale, second.scale)
    torch.testing.assert_close(first.reduced(), second.reduced(), rtol=1e-6, atol=1e-6)
    pair = gaussians(n, m, 3)
    for make in (SinkhornCoupling, UnbalancedCoupling):
        a, b = (make(cost=Fixed(c)).plan(pair) for c in (cost, other))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-10)
    first = UnbalancedCoupling(cost=Fixed(cost))(pair, seeded()).facts
    second = UnbalancedCoupling(cost=Fixed(other))(pair, seeded()).facts
    assert first["lost_mass"] == pytest.approx(second["lost_mass"], abs=1e-6)


@pytest.mark.parametrize("make", [SinkhornCoupling, UnbalancedCoupling])
@pytest.mark.parametrize("shift", [0.0, 10.0, 100.0])
def test_a_shift_leaves_the_pairs_as_they_are(make, shift):
    x, y = (torch.randn(256, 2, generator=seeded(k)) for k in (0, 1))
    coupling = make()
    plan = coupling(Pair(Sample(x), Sample(y + shift)), seeded(2))
    cost = float((x[plan.i] - y[plan.j]).square().sum(1).mean())
    assert cost < 0.6  # independent pairs have 4.3
    assert plan.facts["plan_entropy"] < 0.75


@pytest.mark.parametrize("side", ["source", "target", "both"])
@pytest.mark.parametrize("d", [2, 16, 256])
def test_one_in_a_hundred_a_hundred_times_as_far_moves_the_scale_by_less_than_a_tenth(side, d):
    x, y = (torch.randn(400, d, generator=seeded(k), dtype=torch.float64) for k in (0, 1))
    before = float(interaction(torch.cdist(x, y).square()).scale)
    for points, name in ((x, "source"), (y, "target")):
        if side in (name, "both"):
            points[:4] *= 100
    assert float(interaction(torch.cdist(x, y).square()).scale) == pytest.approx(before, rel=0.1)


def test_outliers_lose_their_mass_and_leave_that_of_the_others():
    x, y = (torch.randn(200, 2, generator=seeded(k), dtype=torch.float64) for k in (0, 1))
    clean = UnbalancedCoupling().plan(Pair(Sample(x), Sample(y)))
    y[:2] = 100.0
    plan = UnbalancedCoupling().plan(Pair(Sample(x), Sample(y)))
    assert float(200 * plan.sum(0)[:2].max()) < 1e-3
    assert float((200 * (plan.sum(0) - clean.sum(0))[2:]).abs().mean()) < 0.05
    assert float((plan.sum() - clean.sum()).abs()) < 0.03


@pytest.mark.parametrize("value", [0.0, 3.0, 1e4])
def test_equal_costs_have_no_interaction(value):
    found = interaction(torch.full((20, 30), value) * (1 + 1e-7 * torch.rand(20, 30, generator=seeded())))
    assert float(found.scale) == 0
    assert float(found.reduced().abs().max()) == 0


def test_a_shift_of_one_cost_keeps_its_share_of_a_sum():
    x, y = (torch.randn(64, 2, generator=seeded(k), dtype=torch.float64) for k in (0, 1))
    cost = SumCost({"a": SquaredEuclideanCost(), "b": Fixed(torch.cdist(x, y))}, {"a": 1.0, "b": 0.5})
    first, second = (interaction(cost(Sample(x), Sample(y + s))).centred for s in (0.0, 50.0))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-8)
