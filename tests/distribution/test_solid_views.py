"""Views of solids: rays against closed forms, partners in both views, and what is refused."""

import pytest
import torch

from flowport.data.agreement import partners
from flowport.distribution import SolidViews
from flowport.distribution.parts import part_of
from flowport.distribution.solid_views import box_hits, ellipsoid_hits
from flowport.errors import FlowportError


def test_rays_leave_a_sphere_where_its_equation_says():
    place = torch.tensor([[[0.0, 0.0, 0.0], [0.3, 0.4, 0.0], [2.0, 0.0, 0.0]]])
    t, normal = ellipsoid_hits(place, torch.tensor([[[0.0, 0.0, 1.0]]]), torch.full((1, 3), 0.5))
    assert t[0, :2].tolist() == pytest.approx([0.5, 0.0], abs=1e-3) and bool(t[0, 2].isnan())
    assert normal[0, 0].tolist() == pytest.approx([0, 0, 1])


def test_hits_lie_on_the_surface_and_no_point_of_the_ray_beyond_is_inside():
    draw = torch.Generator().manual_seed(0)
    axes, place = 0.3 + torch.rand(20, 3, generator=draw), torch.randn(20, 50, 3, generator=draw)
    ahead = torch.randn(20, 1, 3, generator=draw)
    for hits, size in ((ellipsoid_hits, lambda y: y.square().sum(2)), (box_hits, lambda y: y.abs().amax(2))):
        t, normal = hits(place, ahead, axes)
        met = t.isfinite()
        level = size((place + t[..., None] * ahead) / axes[:, None])[met]
        torch.testing.assert_close(level, torch.ones_like(level), rtol=1e-3, atol=1e-3)
        beyond = size((place + (t + 0.01)[..., None] * ahead) / axes[:, None])[met]
        assert 20 < int(met.sum()) < met.numel() and bool((beyond > 1 - 1e-4).all())
        assert bool((((normal * ahead).sum(2)[met]) >= -1e-5).all())  # outwards


def test_both_views_show_the_same_solids_in_the_same_place():
    shaded, depth = SolidViews("shaded", count=60), SolidViews("depth", count=60)
    assert torch.equal(partners(shaded, depth), torch.arange(60))
    assert torch.equal(shaded.labels, depth.labels)
    same = ((shaded.raw > 0) == (depth.raw > 0)).float().mean()
    assert float(same) > 0.995 and not torch.equal(shaded.raw, depth.raw)
    held = {shaded.names[k] for k in shaded.splits["test"].tolist()}
    assert held == {name for name in shaded.names if part_of(name) == "test"}


def test_a_solid_does_not_depend_on_the_others_view():
    again = SolidViews("depth", count=60, size=28, part="test")
    assert again.event_shape == (1, 28, 28) and again.classes == 2 and again.class_names == ("box", "ellipsoid")


@pytest.mark.parametrize(("options", "key"), [({"count": 5}, "count=5"), ({"size": 4}, "size=4")])
def test_what_cannot_be_drawn_is_refused(options, key):
    with pytest.raises(FlowportError, match=key):
        SolidViews(**options)
