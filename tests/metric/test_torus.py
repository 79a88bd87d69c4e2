"""The best torus: exact ones, jittered ones, and slopes that autograd finds too."""

import math

import pytest
import torch

from flowport.distribution import Box, Digits, Sphere, Torus
from flowport.distribution.solids import SCALE
from flowport.errors import FlowportError
from flowport.metric import TorusFit, torus_fit
from flowport.metric.torus import residuals, tangents
from flowport.types import Sample
from tests.metric.outcomes import outcome_of


def of(solid, n, seed=0):
    return solid.sample(n, torch.Generator().manual_seed(seed)).x


def test_an_exact_torus_has_distance_zero_in_every_pose():
    x = of(Torus(64, jitter=0.0), 60)
    away = 3 * x + torch.tensor([5.0, -2.0, 1.0])[:, None]
    assert float(torus_fit(away).max()) < 1e-4
    for other in (Box(64), Sphere(64)):  # with r > R, a sphere would be a torus with R = 0
        assert float(torus_fit(of(other, 20)).min()) > 0.03


@pytest.mark.parametrize("jitter", [0.005, 0.02])
def test_a_jittered_torus_has_the_distance_of_its_jitter(jitter):
    """Only the part of the error across the surface counts, and seven parameters take 7/N of its square."""
    found = torus_fit(of(Torus(128, jitter), 200)).square()
    wanted = (jitter * SCALE) ** 2 * (1 - 7 / 128)
    assert abs(float(found.mean()) / wanted - 1) < 4 * math.sqrt(2 / 121 / 200) + 0.01


def test_slopes_are_those_of_autograd():
    points = torch.randn(2, 5, 3, dtype=torch.float64)
    centre, radii = torch.randn(2, 3, dtype=torch.float64), torch.tensor([[1.0, 0.3], [2.0, 0.5]]).double()
    axis = torch.nn.functional.normalize(torch.randn(2, 3, dtype=torch.float64), dim=1)
    frame = torch.cat([tangents(axis), axis[:, :, None]], 2)
    torch.testing.assert_close(frame.transpose(1, 2) @ frame, torch.eye(3).double().expand(2, 3, 3))

    def moved(step):
        tilted = axis + (tangents(axis) @ step[:, 3:5, None])[:, :, 0]
        return residuals(points, centre + step[:, :3], tilted / tilted.norm(dim=1, keepdim=True), radii + step[:, 5:])

    zero = torch.zeros(2, 7, dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(lambda step: moved(step)[0].sum(0), zero)
    torch.testing.assert_close(moved(zero)[1], slopes.transpose(0, 1), rtol=1e-9, atol=1e-9)


def test_the_metric_has_its_floor_and_its_refusal():
    clouds = {
        name: of(solid, 12, k)
        for k, (name, solid) in enumerate(
            {"source": Box(64), "result": Torus(64, 0.05), "target": Torus(64), "floor": Torus(64)}.items()
        )
    }
    metric = TorusFit()
    samples = {name: Sample(x) for name, x in clouds.items() if name != "result"}
    metric.update(outcome_of(result=clouds["result"], **samples))
    found = metric.compute()
    assert found["torus_fit_floor"] < 0.5 * found["torus_fit"] < 0.5 * found["torus_fit_untranslated"]
    assert float(found["torus_fit"]) == pytest.approx(float(torus_fit(clouds["result"]).median()))
    with pytest.raises(FlowportError, match="is for clouds"):
        metric.check(Torus(), Digits())
