"""Clouds drawn from images: moments in closed form, counts in proportion to ink, one cloud for one image."""

import math

import pytest
import torch

from flowport.cost import SlicedCost
from flowport.coupling import AlignedCoupling, ExactCoupling
from flowport.data.pairing import UnpairedPairing
from flowport.distribution import MNIST, Silhouettes
from flowport.errors import FlowportError
from flowport.metric import CloudDistance
from flowport.modality import Cloud, PixelCloud
from flowport.modality.cloud import VIEW
from flowport.modality.scatter import LABEL, PANEL
from flowport.randomness import Randomness


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blots(n: int = 3, size: int = 6) -> torch.Tensor:
    """Images of uneven ink, half of it none, their middles of mass far from the picture's."""
    raw = torch.randint(256, (n, 1, size, size), generator=seeded(5), dtype=torch.uint8)
    return raw * (torch.rand(raw.shape, generator=seeded(6)) < 0.5) * (torch.arange(size) < size - 2)


def moments(raw: torch.Tensor, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and second moments (n, 2), (n, 2, 2) of ink spread evenly over each pixel, y up, in units of x."""
    size = raw.shape[2]
    ink = raw[:, 0].double() / raw.double().sum((1, 2, 3))[:, None, None]
    middle = (torch.arange(size).double() + 0.5 - size / 2) * 2 * reach / size
    x, y = middle.expand(size, size), -middle[:, None].expand(size, size)
    places = torch.stack([x, y])
    second = torch.einsum("nhw,ahw,bhw->nab", ink, places, places) + (2 * reach / size) ** 2 / 12 * torch.eye(2)
    return torch.einsum("nhw,ahw->na", ink, places), second


@pytest.mark.parametrize("generator", [None, seeded()])
def test_a_cloud_has_the_moments_of_its_ink(generator):
    many, raw = 40_000, blots()
    x = PixelCloud(many, 6, 1.7).encode(raw, generator).double()
    assert x.shape == (3, 2, many)
    mean, second = moments(raw, 1.7)
    error = x.std(2) / math.sqrt(many)
    assert bool(((x.mean(2) - mean).abs() < 4 * error).all())
    products = torch.einsum("nap,nbp->nabp", x, x)
    assert bool(((products.mean(3) - second).abs() < 4 * products.std(3) / math.sqrt(many)).all())
    assert float(mean.abs().min()) > 20 * float(error.max()), "a wrong sign or a swap of axes would pass"


def test_counts_are_in_proportion_to_ink_and_nothing_lies_where_there_is_none():
    many, raw = 40_000, blots()
    ink = PixelCloud(many, 6)
    counts = ink.counts(ink.encode(raw, None))[:, 0]
    share = raw[:, 0] / raw.double().sum((1, 2, 3))[:, None, None]
    assert bool((counts.sum((1, 2)) == many).all())
    assert bool((counts[raw[:, 0] == 0] == 0).all())
    wrong = (counts - many * share).abs() / (many * share * (1 - share)).sqrt().clamp_min(1e-9)
    assert float((wrong > 3).double().mean()) < 0.02 and float(wrong.max()) < 5
    shown, fullest = ink.decode(ink.encode(raw, None)), counts.amax((1, 2))
    assert shown.dtype == torch.uint8 and shown.shape == raw.shape
    assert torch.equal(shown[:, 0], (255 * counts / fullest[:, None, None]).round().to(torch.uint8))


def test_points_are_spread_evenly_over_their_pixel():
    raw = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    raw[0, 0, 1, 3] = 9  # the second row from above, the last column: x in [1, 2], y in [0, 1]
    for generator in (None, seeded()):
        x = PixelCloud(20_000, 4, 2.0).encode(raw, generator)[0] - torch.tensor([1.0, 0.0])[:, None]
        assert 0 <= float(x.min()) < 1e-3 and 1 - 1e-3 < float(x.max()) <= 1
        steps = (torch.arange(20_000) + 0.5) / 20_000
        assert float((x.sort(1).values - steps).abs().max()) < 1.63 / math.sqrt(20_000)  # Kolmogorov, 1 %
        assert abs(float(torch.corrcoef(x)[0, 1])) < 4 / math.sqrt(20_000)


def test_without_a_generator_a_cloud_is_a_function_of_its_image_alone():
    raw, ink = blots(5), PixelCloud(50, 6)
    x = ink.encode(raw, None)
    order = torch.tensor([3, 0, 4])
    assert torch.equal(ink.encode(raw[order], None), x[order])
    alike = torch.full((2, 1, 6, 6), 200, dtype=torch.uint8)
    alike[0, 0, 2, 3], alike[1, 0, 3, 2] = 201, 201  # of the same ink in all
    clouds = ink.encode(alike, None)
    assert float((clouds[0] - clouds[1]).norm(dim=0).min()) > 1e-3, "their points are not drawn independently"
    assert torch.equal(ink.encode(raw, seeded(1)), ink.encode(raw, seeded(1)))
    assert not torch.equal(ink.encode(raw, seeded(1)), ink.encode(raw, seeded(2)))


def test_points_outside_the_picture_and_lost_ones_are_not_counted():
    x = torch.tensor([[[0.5, 9.0, -9.0, 1.0, math.nan, 0.5], [0.5, 0.5, 0.5, 0.5, 0.5, -math.inf]]])
    counts = PixelCloud(6, 2, 1.0).counts(x)
    assert counts.tolist() == [[[[0, 1], [0, 0]]]]
    assert int(PixelCloud(6, 2, 1.0).decode(x[:, :, 1:]).sum()) == 0


def test_images_become_clouds_that_all_of_the_cloud_side_takes():
    digits, shapes = MNIST(modality=PixelCloud(48)), Silhouettes(modality=PixelCloud(48))
    assert digits.event_shape == shapes.event_shape == (2, 48)
    pair = UnpairedPairing(digits, shapes).pairs(0, 16, Randomness(0))
    for side in (pair.source.x, pair.target.x):
        assert 0.7 < float(side.std()) < 1.3
    plan = AlignedCoupling(ExactCoupling(SlicedCost()))(pair, seeded())
    assert plan.facts["aligned"] < 0.5 * float((pair.source.x - pair.target.x).square().sum(1).mean())
    CloudDistance().check(digits, shapes)
    again = (
        UnpairedPairing(digits, shapes).pairs(3800 * 16, 16, Randomness(0)).source
    )  # a later epoch: the same items anew
    assert not torch.equal(again.x, pair.source.x)


def test_a_picture_shows_who_went_where(tmp_path):
    """The upper half of a cloud keeps its colours when it is turned upside down, in the plane and in space."""

    def yellow(picture):
        inked = (picture.sub(255).abs().sum(0) > 100) & (torch.arange(picture.shape[2]) > 95)
        where = (picture[0] > 150) & (picture[2] < 120) & inked
        return float(where.nonzero()[:, 0].float().mean() - inked.nonzero()[:, 0].float().mean())

    for modality, d in ((PixelCloud(40), 2), (Cloud(), 3)):
        start = torch.randn(1, d, 40, generator=seeded())
        start[:, -1] = torch.linspace(-2, 2, 40)
        end = start.clone()
        end[:, -1] *= -1
        picture = modality.render({"source": start, "end": end}, str(tmp_path / "p.png")).float()
        above, below = picture.split(picture.shape[1] // 2, 1)
        assert yellow(above) < -10 and yellow(below) > 10


def test_every_cloud_has_its_panel_and_what_is_lost_is_left_out(tmp_path):
    """A point at (1, 1) is seen to the right of and above its panel's middle; in space the view is a rotation."""
    x = torch.full((3, 2, 5), math.nan)
    x[0], x[2, :, 0] = 0.0, 1.0
    picture = PixelCloud(5).render({"row": x}, str(tmp_path / "p.png")).int()
    inked = (picture.sub(255).abs().sum(0) > 100).nonzero().float()
    inked = inked[inked[:, 1] > LABEL]
    panels = [inked[(inked[:, 1] - LABEL) // PANEL == k] for k in range(3)]
    assert len(panels[0]) and not len(panels[1])
    torch.testing.assert_close(panels[0].mean(0), torch.tensor([0.5 * PANEL, LABEL + 0.5 * PANEL]), atol=2, rtol=0)
    assert float(panels[2].mean(0)[0]) < 0.1 * PANEL and float(panels[2].mean(0)[1]) > LABEL + 2.9 * PANEL
    torch.testing.assert_close(VIEW @ VIEW.T, torch.eye(3))
    assert float(torch.linalg.det(VIEW)) > 0, "a mirror"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PixelCloud(points=0), "points"),
        (lambda: PixelCloud(reach=0.0), "reach"),
        (lambda: PixelCloud(8, 6).encode(torch.zeros(2, 1, 6, 6), None), "uint8"),
        (lambda: PixelCloud(8, 6).encode(torch.ones(2, 3, 6, 6, dtype=torch.uint8), None), "one channel"),
        (lambda: PixelCloud(8, 5).encode(blots(), None), "modality.size"),
        (
            lambda: PixelCloud(8, 6).accept("blots", blots() * torch.tensor([1, 0, 1])[:, None, None, None].byte()),
            "image 1 of 3",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(FlowportError, match=words):
        make()


def test_a_data_set_with_an_empty_image_is_refused_when_it_is_built(monkeypatch):
    raw = blots(40, 28)
    raw[17] = 0
    monkeypatch.setattr("flowport.distribution.mnist._load", lambda: (raw, torch.arange(40) % 10))
    monkeypatch.setattr("flowport.distribution.mnist._fitted", lambda *size: raw)
    monkeypatch.setattr("flowport.distribution.parts.stratified_split", lambda *_: {"train": torch.arange(40)})
    with pytest.raises(FlowportError, match="mnist has no ink in image 17"):
        MNIST(modality=PixelCloud())
