"""Points are uniform on the surfaces: area integrals in closed form and by fine meshes, poses without a preference."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flowport.distribution import Box, Capsule, Ellipsoid, Knot, Sphere, Superquadric, Torus
from flowport.distribution.solids import SCALE, Solid
from flowport.errors import FlowportError
from flowport.modality.cloud import rotations
from tests import zoo

SOLIDS = [make for _, make in zoo.DISTRIBUTIONS if issubclass(type(make()), Solid)]
Chart = Callable[[Tensor, Tensor], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(solid: Solid, *proportions: float, clouds: int = 4) -> Tensor:
    """(points, 3) of some clouds of the same proportions, float64."""
    return solid.surface(torch.tensor(proportions).expand(clouds, -1), seeded()).double().flatten(0, 1)


def mesh(chart: Chart, fine: int = 400) -> tuple[Tensor, Tensor]:
    """Centres (m, 3) and areas (m,) of the triangles of a chart of [0, 1]², whose vertices alone know the surface."""
    grid = torch.linspace(0, 1, fine + 1, dtype=torch.float64)
    x = chart(*torch.meshgrid(grid, grid, indexing="ij"))
    a, b, c, d = (part.reshape(-1, 3) for part in (x[:-1, :-1], x[1:, :-1], x[:-1, 1:], x[1:, 1:]))
    corners = torch.stack([torch.cat([a, d]), torch.cat([b, c]), torch.cat([c, b])])
    area = torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0]).norm(dim=1) / 2
    return corners.mean(0), area


def measures(x: Tensor) -> Tensor:
    """What is averaged over the surface: places, squares, products, and distances from each axis of the solid."""
    far = torch.stack([x[:, [1, 2]].norm(dim=1), x[:, [0, 2]].norm(dim=1), x[:, [0, 1]].norm(dim=1)], 1)
    return torch.cat([x, x.square(), x[:, [0, 1, 2]] * x[:, [1, 2, 0]], x.abs(), far], 1)


def directions(u: Tensor, v: Tensor) -> Tensor:
    height, turn = -torch.cos(math.pi * u), 2 * math.pi * v
    out = torch.sin(math.pi * u)
    return torch.stack([out * turn.cos(), out * turn.sin(), height], 2)


def ellipsoid(u: Tensor, v: Tensor) -> Tensor:
    return directions(u, v) * torch.tensor([0.4, 0.7, 1.0])


def superquadric(p: float, q: float) -> Chart:
    def chart(u: Tensor, v: Tensor) -> Tensor:
        d = directions(u, v)
        x, y, z = (d / torch.tensor([0.5, 0.9, 0.7])).abs().unbind(2)
        return d / (((x**p + y**p) ** (q / p) + z**q) ** (1 / q))[:, :, None]

    return chart


def capsule(u: Tensor, v: Tensor) -> Tensor:
    d = directions(u, v) * 0.45
    return torch.where((u == 0.5)[:, :, None], torch.nan, d + torch.tensor([0, 0, 0.6]) * d[:, :, 2:].sign())


def cylinder(u: Tensor, v: Tensor) -> Tensor:
    return torch.stack([0.45 * (2 * math.pi * v).cos(), 0.45 * (2 * math.pi * v).sin(), 0.6 * (2 * u - 1)], 2)


def knot(u: Tensor, v: Tensor) -> Tensor:
    """The frame by differences along the curve, so that no derivative is written down."""

    def curve(t: Tensor) -> Tensor:
        return torch.stack([t.sin() + 2 * (2 * t).sin(), t.cos() - 2 * (2 * t).cos(), -1.2 * (3 * t).sin()], 2)

    t, h, angle = 2 * math.pi * u, 1e-4, 2 * math.pi * v[:, :, None]
    ahead, bent = curve(t + h) - curve(t - h), curve(t + h) - 2 * curve(t) + curve(t - h)
    binormal = torch.nn.functional.normalize(torch.linalg.cross(ahead, bent), dim=2)
    normal = torch.linalg.cross(binormal, torch.nn.functional.normalize(ahead, dim=2))
    return 0.4 * (curve(t) + 0.45 * (angle.cos() * normal + angle.sin() * binormal))


@pytest.mark.parametrize(
    ("solid", "proportions", "charts"),
    [
        (Ellipsoid, (0.4, 0.7, 1.0), [ellipsoid]),
        (Sphere, (0.8,), [lambda u, v: 0.8 * directions(u, v)]),
        (Capsule, (0.6, 0.45), [capsule, cylinder]),
        (Knot, (0.4, 1.2, 0.45), [knot]),
        (Superquadric, (0.5, 0.9, 0.7, 1.5, 5.0), [superquadric(1.5, 5.0)]),
        (Superquadric, (0.5, 0.9, 0.7, 6.0, 1.5), [superquadric(6.0, 1.5)]),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else "",
)
def test_averages_over_the_points_are_averages_over_the_area(solid, proportions, charts):
    centres, areas = (torch.cat(parts) for parts in zip(*(mesh(chart) for chart in charts), strict=True))
    whole = areas.isfinite()
    wanted = (areas[whole, None] * measures(centres[whole])).sum(0) / areas[whole].sum()
    found = measures(drawn(solid(points=20_000), *proportions))
    error = found.std(0) / math.sqrt(len(found))
    assert float(((found.mean(0) - wanted).abs() / (4 * error + 1e-4)).max()) < 1


def test_torus_lies_on_its_surface_and_is_uniform():
    """R = .85, k = .325: E[cos v] = k/2 for the density ∝ 1 + k cos v; a uniform v would give 0."""
    x, y, z = drawn(Torus(points=20_000), 0.85, 0.325).unbind(1)
    out = (x**2 + y**2).sqrt()
    torch.testing.assert_close((out - 0.85) ** 2 + z**2, torch.full_like(z, (0.85 * 0.325) ** 2), atol=1e-6, rtol=0)
    cosine = (out - 0.85) / (0.85 * 0.325)
    assert abs(float(cosine.mean()) - 0.325 / 2) < 5 * 0.7 / math.sqrt(80_000)
    assert abs(float((x / out).mean())) < 5 * 0.7 / math.sqrt(80_000)


def test_capsule_by_archimedes():
    """E z² = (h + r)²/3; the distance from the axis has E ρ² = r² (h + 2r/3)/(h + r): a ball's share is 2r²/3."""
    h, r = 0.6, 0.45
    x, y, z = drawn(Capsule(points=20_000), h, r).unbind(1)
    out = (x**2 + y**2).sqrt()
    on = torch.where(z.abs() < h, out, (out**2 + (z.abs() - h) ** 2).sqrt())
    torch.testing.assert_close(on, torch.full_like(z, r), atol=1e-6, rtol=0)
    for value, wanted in ((z**2, (h + r) ** 2 / 3), (out**2, r**2 * (h + 2 * r / 3) / (h + r))):
        assert abs(float(value.mean()) - wanted) < 4 * float(value.std()) / math.sqrt(80_000)


def test_points_of_knots_and_superquadrics_lie_on_their_surfaces():
    x = drawn(Knot(points=300), 0.4, 1.2, 0.45) / 0.4
    t = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)
    curve = torch.stack([t.sin() + 2 * (2 * t).sin(), t.cos() - 2 * (2 * t).cos(), -1.2 * (3 * t).sin()], 1)
    torch.testing.assert_close(torch.cdist(x, curve).amin(1), torch.full((1200,), 0.45).double(), atol=1e-4, rtol=0)
    a, b, c = (drawn(Superquadric(points=300), 0.5, 0.9, 0.7, 1.5, 5.0) / torch.tensor([0.5, 0.9, 0.7])).abs().T
    g = (a**1.5 + b**1.5) ** (5 / 1.5) + c**5
    torch.testing.assert_close(g, torch.ones(1200).double(), atol=1e-4, rtol=0)


def test_the_thickest_knot_is_free_of_itself():
    """Places of the curve that are an arc or more apart stay apart by more than the tube is wide, at every height q."""
    t = torch.linspace(0, 2 * math.pi, 601, dtype=torch.float64)[:-1]
    arc = (t[:, None] - t).abs()
    thick = Knot.ranges[2][1]
    for q in torch.linspace(*Knot.ranges[1], 6):
        curve = torch.stack([t.sin() + 2 * (2 * t).sin(), t.cos() - 2 * (2 * t).cos(), -q * (3 * t).sin()], 1)
        apart = torch.cdist(curve, curve)[torch.minimum(arc, 2 * math.pi - arc) > 0.9]
        assert float(apart.min()) > 2 * thick


def test_rejection_never_runs_short():
    """Of one point, and of many, the share that is accepted is enough: the least of it over random proportions."""
    for solid, least in ((Ellipsoid, 0.4), (Superquadric, 0.15), (Knot, 0.7)):
        shares = []

        class Counted(solid):  # type: ignore[misc, valid-type]
            def accepted(self, candidates, probability, generator):
                assert float(probability.max()) <= 1 + 1e-6, "the bound is none"
                shares.append(probability.mean(1))  # noqa: B023
                return super().accepted(candidates, probability, generator)

        Counted(points=64).sample(500, seeded())
        assert float(torch.cat(shares).min()) > least - 0.05
    assert Superquadric(points=1).sample(3, seeded()).x.shape == (3, 3, 1)


def test_box_faces_share_points_by_area():
    half = torch.tensor([0.4, 0.6, 0.9])
    cloud = drawn(Box(points=20_000), 0.4, 0.6, 0.9) / half
    on = cloud.abs() > 1 - 1e-6
    assert bool((on.sum(1) >= 1).all())
    area = 1 / half
    share = on.float().mean(0)
    torch.testing.assert_close(share, area / area.sum(), atol=0.01, rtol=0)
    assert float(cloud.mean(0).abs().max()) < 0.02


def test_rotations_are_rotations_without_a_preferred_direction():
    r = rotations(20_000, seeded()).double()
    torch.testing.assert_close(r @ r.transpose(1, 2), torch.eye(3).double().expand(20_000, 3, 3), atol=1e-5, rtol=0)
    assert float((torch.linalg.det(r) - 1).abs().max()) < 1e-5
    assert float(r.mean(0).abs().max()) < 5 / math.sqrt(3 * 20_000)
    torch.testing.assert_close(r.square().mean(0), torch.full((3, 3), 1 / 3).double(), atol=0.02, rtol=0)


@pytest.mark.parametrize("make", SOLIDS, ids=lambda make: type(make()).__name__)
def test_clouds_are_exchangeable_centred_and_of_about_unit_size(make):
    x = make().sample(2000, seeded()).x
    assert x.shape == (2000, 3, 32)
    middle = x.mean((0, 2))
    assert float(middle.abs().max()) < 5 * float(x.mean(2).std()) / math.sqrt(2000)
    slots = x.square().sum(1).mean(0)
    assert float((slots - slots.mean()).abs().max()) < 5 * float(x.square().sum(1).std()) / math.sqrt(2000)
    assert 0.3 < float(x.std()) / SCALE < 0.7
    sizes = x.square().mean((1, 2))
    assert float(sizes.std() / sizes.mean()) > 0.05, "one single shape"


def test_what_is_no_cloud_is_refused():
    with pytest.raises(FlowportError, match="points ≥ 1"):
        Torus(points=0)


@pytest.mark.parametrize("make", SOLIDS, ids=lambda make: type(make()).__name__)
def test_a_cloud_is_its_surface_turned_scaled_and_jittered(make):
    """One seed draws proportions, surface, noise and rotation, in this order, whatever the jitter."""
    smooth, rough = make(), make()
    smooth.jitter, rough.jitter = 0.0, 0.2
    low, high = torch.tensor(smooth.ranges).T
    draw = seeded()
    own = SCALE * smooth.surface(low + (high - low) * torch.rand(300, len(smooth.ranges), generator=draw), draw).mT
    smooth, rough = (solid.sample(300, seeded()).x for solid in (smooth, rough))
    gram = [x.mT @ x for x in (smooth, own)]
    torch.testing.assert_close(*gram, atol=1e-4, rtol=1e-4)
    assert abs(float((smooth * own).sum() / own.square().sum())) < 5 / math.sqrt(300), "a mean rotation is 0"
    assert float((rough - smooth).std()) == pytest.approx(0.2 * SCALE, rel=0.02)


def test_torus_angles_invert_their_distribution_function():
    k, n = 0.45, 2000
    x, y, z = Torus(points=n).surface(torch.tensor([[1.0, k]]), seeded()).unbind(2)
    draw = seeded()
    wanted = [2 * math.pi * torch.rand(1, n, generator=draw) for _ in range(2)][1]
    v = torch.atan2(z, (x**2 + y**2).sqrt() - 1.0)
    torch.testing.assert_close((v + k * v.sin() - wanted).sin(), torch.zeros(1, n), atol=1e-5, rtol=0)


def test_an_upright_torus_keeps_its_axis_and_a_turned_one_does_not():
    """The tube never reaches the axis: R − r ≥ 0.7 (1 − 0.45), and no point is higher than r ≤ 0.45."""
    upright, turned = (Torus(jitter=0, turned=t).sample(64, seeded()).x / SCALE for t in (False, True))
    assert float(upright[:, :2].norm(dim=1).min()) >= 0.7 * 0.55 - 1e-5
    assert float(upright[:, 2].abs().max()) <= 0.45 + 1e-5 < float(turned[:, 2].abs().max())
