"""Sinkhorn, unbalanced and partial transport against POT, the Gaussian closed form and their marginals."""

import math

import numpy as np
import ot
import pytest
import torch

from flowport.cost.interaction import interaction
from flowport.coupling import PartialCoupling, SinkhornCoupling, UnbalancedCoupling, drawing
from flowport.coupling.entropic import sharpness, solve, working_precision
from flowport.errors import FlowportError
from flowport.types import Pair, Sample
from tests.coupling.batches import gaussians, seeded, squares
from tests.second_device import Memory, copies


@pytest.mark.parametrize(("n", "m", "epsilon"), [(40, 40, 0.05), (30, 50, 0.3)])
def test_plan_equals_pots_log_domain(n, m, epsilon):
    pair = gaussians(n, m, 2)
    cost = squares(pair).numpy()
    a, b = np.full(n, 1 / n), np.full(m, 1 / m)
    absolute = epsilon * float(interaction(squares(pair)).scale)
    truth = ot.sinkhorn(a, b, cost, absolute, method="sinkhorn_log", numItermax=20000, stopThr=1e-13)
    plan = SinkhornCoupling(epsilon, 20000, 1e-11).plan(pair).numpy()
    np.testing.assert_allclose(plan, truth, atol=1e-10)


@pytest.mark.parametrize(("s0", "s1", "variance", "truth"), [(0.8, 1.1, 0.3, 0.742693), (1.0, 0.5, 1.0, 0.207107)])
def test_gaussian_closed_form(s0, s1, variance, truth):
    # quantile grids stand for the two Gaussians; ε = 2σ² for |x0 − x1|²
    assert truth == pytest.approx(0.5 * (math.sqrt(4 * s0**2 * s1**2 + variance**2) - variance), abs=1e-6)
    levels = (torch.arange(600, dtype=torch.float64) + 0.5) / 600
    z = torch.special.ndtri(levels)[:, None]
    z = z / z.square().mean().sqrt()
    pair = Pair(Sample(s0 * z), Sample(s1 * z))
    plan = SinkhornCoupling(2 * variance / float(interaction(squares(pair)).scale), 2000, 1e-8).plan(pair)
    covariance = float(((s0 * z) * (plan @ (s1 * z))).sum())
    assert covariance == pytest.approx(truth, abs=2e-3)


def test_draws_follow_the_plan_in_both_marginals():
    pair = gaussians(32, 32, 2)
    coupling, g = SinkhornCoupling(0.05), seeded(3)
    plan, counts = coupling.plan(pair), torch.zeros(32, 32, dtype=torch.float64)
    draws = 200
    for _ in range(draws):
        match = coupling(pair, g)
        assert match.i.tolist() == list(range(32))
        counts.index_put_((match.i, match.j), torch.ones(32, dtype=torch.float64), accumulate=True)
    expected = draws * 32 * plan
    # Σ (observed − expected)² / expected over cells with mass: its mean is the number of cells, less 32 rows
    cells = expected > 1
    chi = float(((counts - expected).square() / expected)[cells].sum())
    assert abs(chi - int(cells.sum())) < 6 * math.sqrt(2 * int(cells.sum())) + 32
    column_error = (counts.sum(0) / draws - 1).abs().max()
    assert float(column_error) < 5 / math.sqrt(draws)


def test_small_epsilon_does_not_collapse_in_many_dimensions():
    pair = gaussians(64, 64, 3072)
    match = SinkhornCoupling(0.001)(pair, seeded())
    cost = squares(pair)
    best = float((cost * torch.from_numpy(ot.lp.emd([], [], cost.numpy()))).sum())
    assert match.facts["plan_entropy"] < 0.5
    assert match.facts["marginal_error"] <= 1.01e-3
    gain = (float(cost.mean()) - match.facts["cost"]) / (float(cost.mean()) - best)
    assert gain > 0.7


def test_entropy_goes_from_permutation_to_independence():
    assert sharpness(torch.eye(50) / 50) == pytest.approx(0, abs=1e-6)
    assert sharpness(torch.full((50, 50), 1 / 2500)) == pytest.approx(1, abs=1e-6)
    pair = gaussians(50, 50, 2)
    values = [SinkhornCoupling(e)(pair, seeded()).facts["plan_entropy"] for e in (0.02, 0.1, 1.0, 10.0)]
    assert values == sorted(values)
    assert values[-1] > 0.98


def test_too_few_iterations_are_refused():
    with pytest.raises(FlowportError, match=r"raise coupling\.epsilon or coupling\.iterations"):
        SinkhornCoupling(0.001, iterations=3)(gaussians(64, 64, 2), seeded())
    with pytest.raises(FlowportError, match="still moved"):
        UnbalancedCoupling(50.0, 0.001, iterations=3)(gaussians(64, 64, 2), seeded())


def test_rectangular_sinkhorn():
    match = SinkhornCoupling(0.1)(gaussians(20, 30, 2), seeded())
    assert len(match.j) == 60
    assert torch.bincount(match.i).tolist() == [3] * 20


@pytest.mark.parametrize("penalty", [0.3, 2.0])
def test_unbalanced_equals_pot(penalty):
    pair = gaussians(30, 40, 2)
    part = interaction(squares(pair))
    cost, scale = part.reduced().numpy(), float(part.scale)
    a, b = np.full(30, 1 / 30), np.full(40, 1 / 40)
    settings = {"numItermax": 20000, "stopThr": 1e-14}
    truth = ot.unbalanced.sinkhorn_unbalanced(a, b, cost, 0.1 * scale, penalty * scale, **settings)
    coupling = UnbalancedCoupling(penalty, 0.1, 20000, 1e-12)
    np.testing.assert_allclose(coupling.plan(pair).numpy(), truth, atol=1e-9)
    match = coupling(pair, seeded())
    assert match.facts["lost_mass"] == pytest.approx(1 - truth.sum(), abs=1e-7)
    assert len(match.i) == 120
    assert not coupling.keeps_marginals


def test_unbalanced_drops_an_outlier_and_a_large_penalty_keeps_it():
    pair = gaussians(20, 20, 2)
    pair.target.x[7] = 30.0
    assert (UnbalancedCoupling(0.3)(pair, seeded()).j == 7).sum() == 0
    share = 20 * UnbalancedCoupling(20000.0, 3.0, 50000).plan(pair).sum(0)[7]
    assert float(share) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("mass", [0.25, 0.6, 1.0])
def test_partial_equals_pot(mass):
    pair = gaussians(20, 20, 2)
    cost = squares(pair).numpy()
    a = np.full(20, 1 / 20)
    truth = ot.partial.partial_wasserstein(a, a, cost, m=mass)
    plan = PartialCoupling(mass).plan(pair).numpy()
    assert plan.sum() == pytest.approx(mass, abs=1e-9)
    assert (plan.sum(0) <= a + 1e-9).all()
    assert (plan.sum(1) <= a + 1e-9).all()
    assert (plan * cost).sum() == pytest.approx((truth * cost).sum(), rel=1e-7)
    match = PartialCoupling(mass)(pair, seeded())
    assert len(match.i) == 20
    assert match.facts["lost_mass"] == pytest.approx(1 - mass, abs=1e-9)
    assert bool((plan[match.i, match.j] > 0).all())


@pytest.mark.parametrize("mass", [0.0, -0.1, 1.2])
def test_mass_out_of_range_is_refused(mass):
    with pytest.raises(FlowportError, match="share of the mass"):
        PartialCoupling(mass)


def test_bad_numbers_are_refused():
    for build in (
        lambda: SinkhornCoupling(0.0),
        lambda: UnbalancedCoupling(-1.0),
        lambda: UnbalancedCoupling(1.0, 0.0),
    ):
        with pytest.raises(FlowportError, match="must be positive"):
            build()
    pair = gaussians(8, 8, 2)
    pair.target.x[0, 0] = math.nan
    for coupling in (SinkhornCoupling(), UnbalancedCoupling(), PartialCoupling()):
        with pytest.raises(FlowportError, match="NaN or infinite"):
            coupling(pair, seeded())


def test_pairs_are_drawn_without_bias_and_rows_floor_or_ceiling_times():
    plan = torch.rand(9, 7, generator=seeded(), dtype=torch.float64) * 3
    total, g, draws = torch.zeros(9, 7), seeded(1), 2000
    expected = 40 * plan / plan.sum()
    rows = expected.sum(1)
    for _ in range(draws):
        i, j = drawing.pairs(plan, 40, g)
        counts = torch.bincount(i, minlength=9)
        assert bool((counts >= rows.floor()).all() & (counts <= rows.ceil()).all())
        total.index_put_((i, j), torch.ones(40), accumulate=True)
    # a cell's variance is at most its expectation plus a quarter for the rounded row
    error = (total / draws - expected).abs() / ((expected + 0.25) / draws).sqrt()
    assert float(error.max()) < 5


def test_a_flat_plan_uses_many_columns():
    i, j = drawing.pairs(torch.full((50, 50), 0.02), 50, seeded())
    assert i.tolist() == list(range(50))
    assert 20 < len(j.unique()) < 45


def test_an_empty_plan_is_refused():
    with pytest.raises(FlowportError, match="nothing can be drawn"):
        drawing.pairs(torch.zeros(3, 3), 3, seeded())


def test_epsilon_is_relative():
    pair = gaussians(30, 30, 2)
    big = Pair(pair.source.with_x(100 * pair.source.x), pair.target.with_x(100 * pair.target.x))
    torch.testing.assert_close(SinkhornCoupling(0.1).plan(pair), SinkhornCoupling(0.1).plan(big), rtol=1e-6, atol=1e-12)


def test_same_seed_same_pairs_whatever_numpy_does():
    pair = gaussians(40, 40, 2)
    for coupling in (SinkhornCoupling(0.2), UnbalancedCoupling(1.0), PartialCoupling(0.5)):
        np.random.seed(0)  # noqa: NPY002 - the state that must not matter
        first = coupling(pair, seeded(5))
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(9)
        again = coupling(pair, seeded(5))
        assert torch.equal(first.j, again.j)
        assert torch.equal(first.i, again.i)
    assert not torch.equal(SinkhornCoupling(0.2)(pair, seeded(5)).j, SinkhornCoupling(0.2)(pair, seeded(6)).j)


def test_solver_reports_its_error():
    cost = squares(gaussians(30, 30, 2))
    found = solve(cost, 0.1 * float(cost.mean()), 1.0, 2000, 1e-6)
    assert found.error < 1e-6
    assert float((found.plan().sum(1) - 1 / 30).abs().sum()) < 1e-6


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_batch_of_equal_costs_has_a_plan_of_its_mass(value):
    points = torch.zeros(16, 2)
    pair = Pair(Sample(points), Sample(points + value))
    assert float(PartialCoupling(0.9).plan(pair).sum()) == pytest.approx(0.9)
    for coupling in (PartialCoupling(), SinkhornCoupling(), UnbalancedCoupling()):
        assert len(coupling(pair, seeded()).i) >= 16


@pytest.mark.parametrize("make", [SinkhornCoupling, UnbalancedCoupling])
def test_a_plan_that_has_become_independent_is_said_once(make, caplog):
    points = torch.randn(64, 2, generator=seeded())
    pair = Pair(Sample(points), Sample(points.flip(0) + 30.0))
    make()(pair, seeded())
    assert "nearly independent" not in caplog.text
    coupling = make(epsilon=10.0)
    for _ in range(2):
        coupling(pair, seeded())
    assert caplog.text.count(f"coupling={make.__name__.removesuffix('Coupling').lower()} is nearly independent") == 1


@pytest.mark.parametrize("make", [SinkhornCoupling, UnbalancedCoupling])
def test_a_large_plan_takes_a_few_matrices_and_never_all_differences(make):
    """8,192 images of 3,072 coordinates, on a device that holds no numbers."""
    n, d = 8192, 3072
    pair = Pair(Sample(torch.empty(n, d, device="meta")), Sample(torch.empty(n, d, device="meta")))
    reads: list[str] = []
    with copies(reads) as seen, Memory() as memory:
        plan = make().plan(pair)
    assert seen == [] and plan.dtype == torch.float32
    assert 3 < memory.most / (8 * n * n) < 7.5, "float64 matrices of the size of the cost"
    assert {name: reads.count(name) for name in reads} == {"finite": 2, "_solve": 1, "solve": 1}


def test_an_accelerator_iterates_in_float32_where_the_tolerance_allows_it():
    cost = squares(gaussians(60, 60, 2))
    there = cost.to("meta")
    assert working_precision(cost, 1e-3) == torch.float64 == working_precision(there, 1e-6)
    assert working_precision(there, 1e-3) == torch.float32
    epsilon = 0.05 * float(interaction(cost).scale)
    exact, single = (solve(c, epsilon, 1.0, 2000, 1e-4) for c in (cost, cost.float()))
    assert single.error < 1e-4
    torch.testing.assert_close(single.plan().double(), exact.plan(), rtol=0, atol=1e-4 / 60)


def test_sums_by_parts_are_the_sums(monkeypatch):
    cost = squares(gaussians(23, 31, 2))
    whole = solve(cost, 0.5, 1.0, 40, 0.0)
    monkeypatch.setattr("flowport.coupling.entropic.PART", 100)
    parts = solve(cost, 0.5, 1.0, 40, 0.0)
    assert torch.equal(whole.f, parts.f) and torch.equal(whole.g, parts.g)
