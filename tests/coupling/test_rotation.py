"""Clouds turned towards their sources: planted rotations come back, mirrors never, and the target's law stays."""

import math

import pytest
import torch

from flowport.cost.earth_mover import optimal_matching
from flowport.coupling import AlignedCoupling
from flowport.coupling.rotation import kabsch, principal, turned
from flowport.data.pairing import UnpairedPairing
from flowport.data.stream import PairStream
from flowport.distribution import Gaussian, Superquadric, Torus
from flowport.modality.cloud import rotations
from flowport.randomness import Randomness
from flowport.types import Pair, Sample
from tests.coupling.batches import seeded


def uneven(n: int = 20, d: int = 3, points: int = 30) -> torch.Tensor:
    """Clouds without a symmetry."""
    x = torch.randn(n, d, points, generator=seeded(), dtype=torch.float64)
    return x.abs() ** 1.5 * torch.arange(1, d + 1)[:, None] - 1


def planted(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The clouds turned at random and shuffled, and the rotations back."""
    turn = rotations(len(a), seeded(1)).double()
    shuffle = torch.stack([torch.randperm(a.shape[2], generator=seeded(k)) for k in range(len(a))])
    return (turn @ a).gather(2, shuffle[:, None].expand_as(a)), turn.transpose(1, 2)


def test_kabsch_finds_a_planted_rotation_and_never_a_mirror():
    a, back = uneven(), rotations(20, seeded(2)).double()
    torch.testing.assert_close(kabsch(a, back.transpose(1, 2) @ a), back, atol=1e-6, rtol=0)
    mirror = a * torch.tensor([1.0, 1.0, -1.0])[:, None]
    best = kabsch(a, mirror)
    torch.testing.assert_close(torch.linalg.det(best), torch.ones(20).double())
    cost = (a - best @ mirror).square().sum((1, 2))
    for other in rotations(300, seeded(3)).double():
        assert bool((cost <= (a - other @ mirror).square().sum((1, 2)) + 1e-9).all())
    plane = uneven(d=2)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()
    torch.testing.assert_close(kabsch(quarter @ plane, plane), quarter.expand(20, 2, 2), atol=1e-6, rtol=0)


def test_a_planted_rotation_of_shuffled_points_comes_back_exactly():
    a = uneven()
    b, back = planted(a)
    rotation, order = turned(a, b, optimal_matching)
    torch.testing.assert_close(rotation, back, atol=1e-6, rtol=0)
    plan = AlignedCoupling(rotate=True)(Pair(Sample(a), Sample(b)), seeded())
    assert plan.facts["aligned"] < 1e-11
    torch.testing.assert_close(plan.apply(Pair(Sample(a), Sample(b))).target.x, a, atol=1e-5, rtol=0)
    some = torch.tensor([7, 2])
    torch.testing.assert_close(plan.apply(Pair(Sample(a), Sample(b)), some).target.x, a[some], atol=1e-5, rtol=0)


def test_principal_rotations_are_all_proper_ones():
    starts = principal(uneven(), uneven(20, 3, 40))
    assert starts.shape == (20, 4, 3, 3)
    torch.testing.assert_close(torch.linalg.det(starts), torch.ones(20, 4).double())
    assert float((starts[:, :, None] - starts[:, None]).abs().amax((3, 4)).add(9 * torch.eye(4)).min()) > 0.1


@pytest.mark.parametrize("swaps", [None, 60])
def test_it_never_costs_more_and_leaves_source_and_shape_as_they_are(swaps):
    pair = UnpairedPairing(Superquadric(40), Torus(40)).pairs(0, 16, Randomness(3))
    plain, free = (AlignedCoupling(swaps=swaps, rotate=rotate)(pair, seeded()) for rotate in (False, True))
    costs = [(m.apply(pair).source.x - m.apply(pair).target.x).square().sum((1, 2)) for m in (plain, free)]
    slack = 1e-4 if swaps is None else 0.1 * float(costs[0].mean())  # random swaps err by some per cent
    assert bool((costs[1] <= costs[0] + slack).all()) and float(costs[1].sum()) < 0.9 * float(costs[0].sum())
    new = free.apply(pair)
    assert torch.equal(new.source.x, pair.source.x)
    assert free.rotation is not None
    torch.testing.assert_close(torch.linalg.det(free.rotation), torch.ones(16).double())
    inside = [
        torch.cdist(x.transpose(1, 2), x.transpose(1, 2)).flatten(1).sort(1).values
        for x in (new.target.x, pair.target.x)
    ]
    torch.testing.assert_close(*inside, atol=1e-2, rtol=0)


def axes_of(clouds: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigh(clouds @ clouds.transpose(1, 2)).eigenvectors[:, :, 0]


def test_the_target_keeps_its_law_where_both_laws_are_the_same_in_every_pose():
    """The axes of tori stay uniform, E n nᵀ = I/3 with Var n_i² = 4/45; those beside a flat, unturned source do not."""
    n = 500
    noise, torus = Gaussian(event_shape=(3, 24)), Torus(24)
    pair = UnpairedPairing(noise, torus).pairs(0, n, Randomness(0))
    found = axes_of(AlignedCoupling(rotate=True)(pair, seeded()).apply(pair).target.x.double())
    assert float((found.square().mean(0) - 1 / 3).abs().max()) < 4 * math.sqrt(4 / 45 / n)
    flat = Sample(pair.source.x * torch.tensor([1.0, 1.0, 0.1])[:, None])
    handed = axes_of(AlignedCoupling(rotate=True)(Pair(flat, pair.target), seeded()).apply(pair).target.x.double())
    assert float(handed.square().mean(0)[2]) > 0.6


def test_a_pool_of_turned_pairs_is_cut_by_step():
    stream = PairStream(UnpairedPairing(Superquadric(16), Torus(16)), AlignedCoupling(rotate=True), Randomness(1), 8, 4)
    gap = torch.cat([(p.source.x - p.target.x).square().sum(1).mean(1) for p in map(stream.at, range(4))]).mean()
    assert stream.facts["aligned"] == pytest.approx(float(gap), rel=1e-5)
