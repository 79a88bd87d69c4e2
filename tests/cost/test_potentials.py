"""Costs less potentials have the same optimal assignments, many at once and without a read by the host."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from flowport.cost.earth_mover import assignments, optimal_matching
from flowport.cost.potentials import reduced
from flowport.coupling.assignment import _reduced, permutation
from tests.second_device import copies

SEED = torch.Generator().manual_seed(0)


def optimum(costs):
    return torch.stack([torch.from_numpy(linear_sum_assignment(c.numpy())[1]) for c in costs])


def total(costs, order):
    return costs.gather(2, order[:, :, None]).sum((1, 2))


def problems(n):
    x, y = torch.randn(2, 6, n, 3, generator=SEED, dtype=torch.float64)
    costs = torch.cdist(x, y).square()
    costs[1] += torch.randn(n, 1, generator=SEED) * 100  # f_i changes nothing
    costs[2] = 0
    costs[3] *= 1e-200
    costs[4, 0] += 1e9  # an outlier
    costs[5] = costs[5].round()  # ties
    return costs


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_reduced_costs_have_the_same_optima(n):
    costs = problems(n)
    before = costs.clone()
    small = reduced(costs)
    assert small.min() >= 0 and bool(small.isfinite().all())
    assert bool((small.amin(1) == 0).all()) and bool((small.amin(2) == 0).all())
    rounding = 1e-9 * costs.abs().amax((1, 2)) * n
    assert bool(((total(costs, optimum(small)) - total(costs, optimum(costs))).abs() <= rounding).all())
    assert torch.equal(costs, before)


def test_most_of_the_search_is_done():
    """An assignment that is read off the zeros of the reduced costs finds most partners."""
    x, y = torch.randn(2, 4, 64, 3, generator=SEED, dtype=torch.float64)
    costs = torch.cdist(x, y).square()
    found, best = reduced(costs).argmin(2), optimum(costs)
    assert float((found == best).double().mean()) > 0.6
    single = torch.stack([_reduced(c) for c in costs])
    torch.testing.assert_close(reduced(costs), single, rtol=1e-6, atol=1e-9)


def test_infinite_costs_are_seen():
    costs = torch.rand(2, 5, 5, generator=SEED, dtype=torch.float64)
    costs[1, 2] = torch.nan
    small = reduced(costs)
    assert bool(small[0].isfinite().all()) and not bool(small[1].isfinite().all())


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_change_no_assignment(threads):
    a, b = torch.randn(2, 5, 3, 30, generator=SEED)
    costs = -torch.einsum("ndi,ndj->nij", a.double(), b.double())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(assignments(costs), optimum(costs))
        assert torch.equal(optimal_matching(a, b), optimum(costs))
    finally:
        torch.set_num_threads(before)


def test_reducing_reads_nothing():
    with copies() as seen:
        reduced(torch.zeros(2, 5, 5, device="meta"))
    assert seen == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("n", [1, 2, 64, 257])
def test_matchings_on_the_device_are_optimal(n):
    x, y = torch.randn(2, n, 3, generator=SEED, dtype=torch.float64)
    cost = torch.cdist(x, y).square()
    assert torch.equal(permutation(cost.cuda()).cpu(), permutation(cost))
    a, b = torch.randn(2, 9, 3, n, generator=SEED)
    assert torch.equal(optimal_matching(a.cuda(), b.cuda()).cpu(), optimal_matching(a, b))
