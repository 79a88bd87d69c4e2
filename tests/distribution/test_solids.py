"""Points are uniform on the surfaces: area integrals in closed form, and poses without a preferred direction."""

import math

import pytest
import torch

from flowport.distribution import Box, Ellipsoid, Torus
from flowport.distribution.solids import SCALE
from flowport.errors import Refusal
from flowport.modality.cloud import rotations


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fixed(solid, *proportions: float):
    """The solid with its proportions given, one after the other; all else is drawn as ever."""
    given = iter(proportions)

    def uniform(n, generator, low=0.0, high=1.0, many=0):
        if many == 1:
            return torch.full((n, 1), next(given))
        if many == 3:
            return torch.tensor(proportions).expand(n, 3)
        return low + (high - low) * torch.rand(n, many or solid.points, generator=generator)

    solid.uniform = uniform
    return solid


def test_torus_lies_on_its_surface_and_is_uniform():
    """R = .85, k = .325: E[cos v] = k/2 for the density ∝ 1 + k cos v; a uniform v would give 0."""
    x, y, z = fixed(Torus(points=4000), 0.85, 0.325).surface(20, seeded()).double().unbind(2)
    out = (x**2 + y**2).sqrt()
    torch.testing.assert_close((out - 0.85) ** 2 + z**2, torch.full_like(z, (0.85 * 0.325) ** 2), atol=1e-6, rtol=0)
    cosine = (out - 0.85) / (0.85 * 0.325)
    assert abs(float(cosine.mean()) - 0.325 / 2) < 5 * 0.7 / math.sqrt(80_000)
    assert abs(float((x / out).mean())) < 5 * 0.7 / math.sqrt(80_000)


def test_torus_angles_invert_their_distribution_function():
    k, n = 0.45, 2000
    x, y, z = fixed(Torus(points=n), 1.0, k).surface(1, seeded()).unbind(2)
    draw = seeded()
    wanted = [2 * math.pi * torch.rand(1, n, generator=draw) for _ in range(2)][1]
    v = torch.atan2(z, (x**2 + y**2).sqrt() - 1.0)
    torch.testing.assert_close((v + k * v.sin() - wanted).sin(), torch.zeros(1, n), atol=1e-5, rtol=0)


def test_ellipsoid_is_uniform_by_area():
    """The share of area with |x| < a/2, beside quadrature over the sphere with the weight |A⁻¹ d|."""
    axes = torch.tensor([0.4, 0.7, 1.0])
    cloud = fixed(Ellipsoid(points=20_000), 0.4, 0.7, 1.0).surface(4, seeded()) / axes
    torch.testing.assert_close(cloud.norm(dim=2), torch.ones(4, 20_000), atol=1e-5, rtol=0)
    d = torch.randn(2_000_000, 3, generator=seeded(1))
    d = d / d.norm(dim=1, keepdim=True)
    weight = (d / axes).norm(dim=1)
    for k in range(3):
        wanted = float((weight * (d[:, k].abs() < 0.5)).sum() / weight.sum())
        found = float((cloud[:, :, k].abs() < 0.5).float().mean())
        assert abs(found - wanted) < 5 * 0.5 / math.sqrt(80_000) + 2e-3
        assert abs(wanted - 0.5) > 0.02 or k == 1, "a uniform direction would pass too"


def test_box_faces_share_points_by_area():
    half = torch.tensor([0.4, 0.6, 0.9])
    cloud = fixed(Box(points=20_000), 0.4, 0.6, 0.9).surface(4, seeded()) / half
    on = cloud.abs() > 1 - 1e-6
    assert bool((on.sum(2) >= 1).all())
    area = 1 / half
    share = on.float().mean((0, 1))
    torch.testing.assert_close(share, area / area.sum(), atol=0.01, rtol=0)
    assert float(cloud.mean((0, 1)).abs().max()) < 0.02


def test_rotations_are_rotations_without_a_preferred_direction():
    r = rotations(20_000, seeded()).double()
    torch.testing.assert_close(r @ r.transpose(1, 2), torch.eye(3).double().expand(20_000, 3, 3), atol=1e-5, rtol=0)
    assert float((torch.linalg.det(r) - 1).abs().max()) < 1e-5
    assert float(r.mean(0).abs().max()) < 5 / math.sqrt(3 * 20_000)
    torch.testing.assert_close(r.square().mean(0), torch.full((3, 3), 1 / 3).double(), atol=0.02, rtol=0)


def widths(solid) -> torch.Tensor:
    """The proportions of 400 solids, read off their points."""
    cloud = solid(points=600).surface(400, seeded())
    if solid is not Torus:
        return cloud.abs().amax(1)
    out = cloud[:, :, :2].norm(dim=2)
    return torch.stack([(out.amax(1) + out.amin(1)) / 2, (out.amax(1) - out.amin(1)) / (out.amax(1) + out.amin(1))], 1)


@pytest.mark.parametrize(
    ("solid", "low", "high"),
    [(Torus, [0.7, 0.2], [1, 0.45]), (Ellipsoid, [0.4] * 3, [1.0] * 3), (Box, [0.4] * 3, [0.9] * 3)],
)
def test_proportions_are_uniform_between_their_ends(solid, low, high):
    share = (widths(solid) - torch.tensor(low)) / (torch.tensor(high) - torch.tensor(low))
    torch.testing.assert_close(share.amin(0), torch.zeros(share.shape[1]), atol=0.05, rtol=0)
    torch.testing.assert_close(share.amax(0), torch.ones(share.shape[1]), atol=0.05, rtol=0)
    assert float((share.mean(0) - 0.5).abs().max()) < 5 * 0.29 / 20 + 0.02  # the outermost point is not quite the edge


@pytest.mark.parametrize("solid", [Torus, Ellipsoid, Box])
def test_a_cloud_is_its_surface_turned_scaled_and_jittered(solid):
    """One seed draws one surface, one noise and one rotation, whatever the jitter."""
    surface = solid(points=50).surface(300, seeded())
    smooth, rough = (solid(points=50, jitter=jitter).sample(300, seeded()).x for jitter in (0.0, 0.2))
    own = SCALE * surface.transpose(1, 2)
    gram = [x.transpose(1, 2) @ x for x in (smooth, own)]
    torch.testing.assert_close(*gram, atol=1e-4, rtol=1e-4)
    same = (smooth * own).sum() / own.square().sum()
    assert abs(float(same)) < 5 / math.sqrt(300), "a mean rotation is 0"
    assert float((rough - smooth).std()) == pytest.approx(0.2 * SCALE, rel=0.02)


@pytest.mark.parametrize("solid", [Torus, Ellipsoid, Box])
def test_clouds_are_exchangeable_and_centred(solid):
    x = solid(points=64).sample(2000, seeded()).x
    assert x.shape == (2000, 3, 64)
    assert float(x.mean((0, 2)).abs().max()) < 0.05
    slots = x.square().sum(1).mean(0)
    assert float((slots - slots.mean()).abs().max()) < 5 * float(x.square().sum(1).std()) / math.sqrt(2000)
    assert 0.3 < float(x.std()) / SCALE < 0.7


def test_what_is_no_cloud_is_refused():
    with pytest.raises(Refusal, match="points ≥ 1"):
        Torus(points=0)
