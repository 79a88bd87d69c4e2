"""Exact OT: the optimum, as a permutation or a list with exact marginals."""

from itertools import permutations

import numpy as np
import pytest
import torch

from flowport.cost.potentials import lowered
from flowport.coupling import ExactCoupling, IndependentCoupling
from flowport.coupling.assignment import _reduced, permutation, transport
from flowport.errors import FlowportError
from flowport.types import Pair, Sample
from tests.coupling.batches import gaussians, optimum, seeded, squares


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_brute_force(n):
    cost = torch.rand(n, n, generator=seeded(n), dtype=torch.float64)
    best = min(permutations(range(n)), key=lambda p: float(cost[torch.arange(n), torch.tensor(p)].sum()))
    assert permutation(cost).tolist() == list(best)


def test_a_three_cycle_is_not_its_inverse():
    # target k is source k + 1: a mix-up of rows and columns gives the other 3-cycle
    x = torch.tensor([[0.0], [10.0], [20.0]])
    match = ExactCoupling()(Pair(Sample(x), Sample(x[[1, 2, 0]])), seeded())
    assert dict(zip(match.i.tolist(), match.j.tolist(), strict=True)) == {0: 2, 1: 0, 2: 1}


@pytest.mark.parametrize(("n", "d"), [(60, 1), (128, 2), (300, 2), (128, 8), (100, 3072)])
def test_optimal_and_a_permutation(n, d):
    pair = gaussians(n, n, d)
    match = ExactCoupling()(pair, seeded())
    cost = squares(pair)
    found = float(cost[match.i, match.j].sum())
    assert found == pytest.approx(optimum(cost), rel=1e-9)
    assert found < float(cost.diagonal().sum())
    assert float(match.facts["cost"]) == pytest.approx(found / n, rel=1e-6)
    assert match.i.sort().values.tolist() == match.j.sort().values.tolist() == list(range(n))


def hard_costs() -> dict[str, torch.Tensor]:
    g = seeded()
    x = torch.randn(80, 2, generator=g, dtype=torch.float64)
    outliers = x.clone()
    outliers[:3] *= 1e6
    blocks = torch.rand(80, 80, generator=g, dtype=torch.float64)
    blocks[:40, 40:] += 1e12
    blocks[40:, :40] += 1e12
    return {
        "outliers": torch.cdist(outliers, x.flip(0)).square(),
        "outliers on both sides": torch.cdist(outliers, outliers.flip(0)).square(),
        "forbidden blocks": blocks,
        "all equal": torch.ones(80, 80, dtype=torch.float64),
        "zero but one": torch.eye(80, dtype=torch.float64) * (torch.arange(80) == 3),
        "repeated points": torch.cdist(x[torch.arange(80) % 3], x[torch.arange(80) % 4]).square(),
        "negative": -torch.rand(80, 80, generator=g, dtype=torch.float64) * 1e3,
        "tiny": torch.rand(80, 80, generator=g, dtype=torch.float64) * 1e-200,
        "rank one": torch.outer(torch.rand(80, generator=g).double(), torch.rand(80, generator=g).double().exp()) * 1e5,
        "ten orders of magnitude": (23 * torch.rand(80, 80, generator=g, dtype=torch.float64)).exp(),
    }


@pytest.mark.parametrize("name", hard_costs())
def test_the_potentials_never_move_the_optimum(name):
    cost = hard_costs()[name]
    found = permutation(cost)
    assert sorted(found.tolist()) == list(range(80))
    rounding = 1e-15 * float(cost.abs().max())
    assert float(cost[torch.arange(80), found].sum()) == pytest.approx(optimum(cost), rel=1e-12, abs=80 * rounding)


@pytest.mark.parametrize("outliers", [0, 3])
def test_the_potentials_close_most_of_the_duality_gap(outliers):
    """Σ_i (C − f − g)[i, τ(i)] = Σ_i C[i, τ(i)] − Σf − Σg is 0 at the true potentials τ, and what is left to search."""
    pair = gaussians(128, 128, 2)
    pair.source.x[:outliers] *= 1e3
    cost = squares(pair)
    best = permutation(cost)[:, None]
    minima, found = (float(reduced.gather(1, best).sum()) for reduced in (lowered(cost.clone()), _reduced(cost)))
    assert 0 <= found < 0.02 * minima


def test_an_exact_cost_is_solved_exactly():
    # whole numbers and a planted zero diagonal under a shuffle: nothing to round
    shuffle = torch.randperm(200, generator=seeded())
    cost = torch.randint(1, 5, (200, 200), generator=seeded()).double()
    cost[torch.arange(200), shuffle] = 0
    assert torch.equal(permutation(cost), shuffle)


def test_one_dimension_is_sorted_pairing():
    pair = gaussians(200, 200, 1)
    match = ExactCoupling()(pair, seeded())
    x0, x1 = pair.source.x[match.i, 0], pair.target.x[match.j, 0]
    assert torch.equal(x1[x0.argsort()], pair.target.x[:, 0].sort().values)


def test_labels_and_ids_travel():
    pair = gaussians(50, 50, 2)
    match = ExactCoupling()(pair, seeded())
    new = pair.take(match.i, match.j)
    assert torch.equal(new.source.x, pair.source.x[new.source.id])
    assert torch.equal(new.target.x, pair.target.x[new.target.id - 100])
    assert torch.equal(new.target.label, (new.target.id - 100) % 5)
    assert not torch.equal(new.target.id, pair.target.id)


@pytest.mark.parametrize(("n", "m"), [(6, 4), (30, 80), (7, 5), (1, 9)])
def test_rectangular_marginals_are_exact_and_the_plan_is_optimal(n, m):
    pair = gaussians(n, m, 2)
    match = ExactCoupling()(pair, seeded())
    length = np.lcm(n, m)
    assert torch.equal(torch.bincount(match.i, minlength=n), torch.full((n,), length // n))
    assert torch.equal(torch.bincount(match.j, minlength=m), torch.full((m,), length // m))
    # every point split into units: the assignment problem of size L has the same optimum
    cost = squares(pair)
    units = cost.repeat_interleave(length // n, 0).repeat_interleave(length // m, 1)
    assert float(cost[match.i, match.j].sum()) == pytest.approx(optimum(units), rel=1e-9)


def test_too_long_a_list_is_refused():
    with pytest.raises(FlowportError, match="choose sizes with a common factor"):
        transport(torch.zeros(4099, 4111))


@pytest.mark.slow
def test_large_batch_converges_to_the_optimum():
    # x1 = ∇φ(x0) of a convex φ, shuffled: by Brenier's theorem the map itself is the optimum
    n, g = 1536, seeded()
    x0 = torch.randn(n, 2, generator=g, dtype=torch.float64)
    x1 = 2 * x0 + x0.square().sum(1, keepdim=True).sqrt() * x0 + 0.5
    shuffle = torch.randperm(n, generator=g)
    match = ExactCoupling()(Pair(Sample(x0), Sample(x1[shuffle])), seeded())
    assert torch.equal(shuffle[match.j], match.i)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_points_are_refused(value):
    pair = gaussians(8, 8, 2)
    pair.source.x[3, 1] = value
    with pytest.raises(FlowportError, match="NaN or infinite"):
        ExactCoupling()(pair, seeded())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_points_and_autocast(dtype):
    g = seeded()
    # squared distances near 98 000 overflow float16
    x0, x1 = (
        (4 * torch.randn(24, 3, 32, 32, generator=g)).to(dtype),
        (4 * torch.randn(24, 3, 32, 32, generator=g)).to(dtype),
    )
    truth = torch.cdist(x0.double().flatten(1), x1.double().flatten(1)).square()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        match = ExactCoupling()(Pair(Sample(x0), Sample(x1)), seeded())
    assert float(truth[match.i, match.j].sum()) == pytest.approx(optimum(truth), rel=1e-6)


def test_independent_leaves_rows_and_has_no_correlation():
    pair = gaussians(4000, 4000, 1)
    match = IndependentCoupling()(pair, seeded())
    assert torch.equal(match.i, match.j)
    both = torch.cat([pair.source.x[match.i], pair.target.x[match.j]], 1)
    assert abs(float(torch.corrcoef(both.T)[0, 1])) < 4 / 4000**0.5
    few = IndependentCoupling()(gaussians(6, 4, 1), seeded())
    assert torch.bincount(few.i).tolist() == [2] * 6
    assert torch.bincount(few.j).tolist() == [3] * 4
