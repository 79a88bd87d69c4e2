"""Costs: exact near pairs, precision, invariances, and one scale in a sum."""

import pytest
import torch
from torch import nn

from flowport.cost import (
    CosineCost,
    FeaturesCost,
    HOGFeatures,
    SpectralCost,
    SquaredEuclideanCost,
    StandardisedCost,
    SumCost,
)
from flowport.cost.interaction import interaction
from flowport.errors import FlowportError
from flowport.types import Sample


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def direct(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a.double().flatten(1), b.double().flatten(1)
    return torch.stack([(row - b).square().sum(1) for row in a])


@pytest.mark.parametrize("shape", [(2,), (64,), (65,), (3, 8, 8)])
def test_squared_euclidean(shape):
    x0, x1 = torch.randn(9, *shape, generator=seeded()) + 50, torch.randn(7, *shape, generator=seeded(1)) + 52
    cost = SquaredEuclideanCost()(Sample(x0), Sample(x1))
    torch.testing.assert_close(cost, direct(x0, x1), rtol=1e-4, atol=1e-4)
    assert cost.shape == (9, 7)
    assert not torch.allclose(cost, cost.sqrt())


def test_near_pairs_keep_their_distance_in_many_dimensions():
    x = torch.randn(6, 3072, generator=seeded())
    near = x + 1e-3 * torch.randn(6, 3072, generator=seeded(1))
    cost = SquaredEuclideanCost()(Sample(x), Sample(near))
    torch.testing.assert_close(cost.diagonal(), direct(x, near).diagonal(), rtol=1e-5, atol=0)
    assert float(SquaredEuclideanCost()(Sample(x), Sample(x)).diagonal().max()) == 0
    # a matrix product alone cannot
    product = x.square().sum(1) + near.square().sum(1) - 2 * (x * near).sum(1)
    assert float((product - direct(x, near).diagonal()).abs().max()) > 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_points_have_full_precision_costs_under_autocast(dtype):
    x0, x1 = (5 * torch.randn(4, 3000, generator=seeded(k)).to(dtype) for k in (0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = SquaredEuclideanCost()(Sample(x0), Sample(x1))
    assert float(cost.max()) > 65504
    torch.testing.assert_close(cost, direct(x0, x1), rtol=1e-5, atol=0)


def test_features_are_frozen_and_evaluated_whatever_the_mode():
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    cost = FeaturesCost(network, chunk=3)
    a, b = Sample(torch.randn(7, 4, generator=seeded())), Sample(torch.randn(5, 4, generator=seeded(1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cost(a, b)
    assert network.training
    assert network[1].num_batches_tracked == 0
    network.eval()
    torch.testing.assert_close(found, direct(network(a.x), network(b.x)), rtol=1e-5, atol=1e-6)
    assert not found.requires_grad
    assert not any(p.requires_grad for p in network.parameters())


def test_sum_puts_its_parts_on_one_scale():
    a, b = Sample(torch.randn(6, 2, generator=seeded())), Sample(torch.randn(5, 2, generator=seeded(1)))
    plain = SquaredEuclideanCost()(a, b)
    big = FeaturesCost(nn.Linear(2, 2, bias=False))
    big.network.weight.data = 100 * torch.eye(2)
    both = SumCost({"big": big, "plain": SquaredEuclideanCost()}, {"plain": 0.2, "big": 1.0})
    torch.testing.assert_close(both(a, b), 1.2 * plain / interaction(plain).scale, check_dtype=False)
    far = SumCost({"big": CosineCost(), "plain": SquaredEuclideanCost()}, {"plain": 0.2, "big": 0.0})
    torch.testing.assert_close(far(a, b), 0.2 * plain / interaction(plain).scale, check_dtype=False)
    for costs, weights in (({}, {}), ({"a": big}, {"b": 1.0}), ({"a": big}, {"a": -1.0})):
        with pytest.raises(FlowportError, match="one weight ≥ 0 for each cost"):
            SumCost(costs, weights)
    same = Sample(torch.ones(3, 2))
    assert float(SumCost({"a": SquaredEuclideanCost()}, {"a": 1.0})(same, same).abs().max()) == 0


def test_cosine_of_embeddings_and_why_not_of_one_number():
    a = Sample(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
    expected = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(CosineCost()(a, a), expected, atol=1e-7, rtol=0)
    ages = Sample(torch.tensor([[1.0], [80.0]]))
    assert float(CosineCost()(ages, ages).max()) == pytest.approx(0, abs=1e-7)
    assert float(StandardisedCost()(ages, ages)[0, 1]) == pytest.approx(4)


def test_standardised_forgets_units_column_by_column():
    a, b = torch.randn(6, 3, generator=seeded()), torch.randn(5, 3, generator=seeded(1))
    units = torch.tensor([1.0, 100.0, 0.01])
    torch.testing.assert_close(
        StandardisedCost()(Sample(a), Sample(b)), StandardisedCost()(Sample(a * units), Sample(b * units))
    )
    constant = Sample(torch.ones(4, 1))
    assert float(StandardisedCost()(Sample(torch.full((4, 1), 3.0)), constant)[0, 0]) == pytest.approx(4)


def stroke(angle: float, shift: float = 0.0, slant: float = 0.0, size: float = 0.5) -> torch.Tensor:
    """A bar with a hook, (1, 1, 32, 32), ink 1 on −1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    x, y = x - shift - slant * (y - shift), y - shift
    c, s = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    u, v = (c * x + s * y) / size, (c * y - s * x) / size
    ink = torch.exp(-(u**2) * 20) * (v.abs() < 1) + torch.exp(-((v - 0.9) ** 2) * 20) * ((u > 0) & (u < 0.8))
    return 2 * ink.clamp(0, 1)[None, None] - 1


def test_hog_forgets_place_size_and_slant_and_sees_direction():
    hog, plain = HOGFeatures(), HOGFeatures(deskew=False)
    base = stroke(0.0)
    turned = stroke(1.2)

    def gap(descriptor, other):
        return float((descriptor(base) - descriptor(other)).square().sum())

    for same in (stroke(0.0, shift=0.3), stroke(0.0, size=0.35), stroke(0.0, slant=0.3)):
        assert gap(hog, same) < 0.5 * gap(hog, turned)
        assert gap(hog, same) < 0.5 * gap(plain, same)
    found = hog(torch.cat([base, turned, -torch.ones(1, 1, 32, 32)]))
    assert found.shape == (3, 5 * 5 * 8)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found[:2].square().sum(1), torch.ones(2))
    with pytest.raises(FlowportError, match="is for images"):
        hog(torch.randn(4, 2))


def test_hog_orientation_bins_are_gradient_directions():
    ramp = torch.linspace(-1, 1, 20).expand(1, 1, 20, 20)
    bins = HOGFeatures(cells=1, deskew=False)(torch.cat([ramp, ramp.transpose(2, 3)]))
    assert bins.argmax(1).tolist() == [0, 4]


def clusters(n: int, seed: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    g = seeded(seed)
    y = torch.arange(n) % 3
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    return centres[y] + torch.randn(n, 2, generator=g) + shift, y


def test_spectral_joins_clusters_over_an_offset_and_is_deterministic():
    (x0, y0), (x1, y1) = clusters(90, 0, 0.0), clusters(120, 1, 40.0)
    cost = SpectralCost(dimensions=2)(Sample(x0), Sample(x1))
    torch.manual_seed(5)
    assert torch.equal(cost, SpectralCost(dimensions=2)(Sample(x0), Sample(x1)))
    same = y0[:, None] == y1[None]
    assert float(cost[same].mean()) < 0.2 * float(cost[~same].mean())
    assert float((y1[cost.argmin(1)] == y0).double().mean()) > 0.95


def test_spectral_small_batches_and_refusals():
    for n in (1, 2, 5):
        cost = SpectralCost()(
            Sample(torch.randn(n, 2, generator=seeded())), Sample(torch.randn(n, 2, generator=seeded(1)))
        )
        assert cost.shape == (n, n)
        assert bool(torch.isfinite(cost).all())
    with pytest.raises(FlowportError, match="NaN or infinite features"):
        SpectralCost()(Sample(torch.full((5, 2), torch.nan)), Sample(torch.zeros(5, 2)))
    with pytest.raises(FlowportError, match="at least 1"):
        SpectralCost(within=0)
