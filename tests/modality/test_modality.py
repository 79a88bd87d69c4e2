"""Encode and decode, augmentation against exact maps, and pictures."""

import math

import pytest
import torch

from flowport.data.pairing import UnpairedPairing
from flowport.distribution import Brass, Notes, Silhouettes
from flowport.errors import FlowportError
from flowport.modality import FloatImage, Image, Plane
from flowport.randomness import Randomness

R = Randomness(11)
ALL = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
RAW = torch.cat([ALL, torch.randint(256, (5, 1, 16, 16), generator=R.generator("raw"), dtype=torch.uint8)])


def test_image_is_exact_both_ways():
    x = Image().encode(RAW, None)
    assert x.dtype == torch.float32
    assert (float(x.min()), float(x.max())) == (-1, 1)
    assert torch.equal(Image().decode(x), RAW)
    assert torch.equal(Image().decode(x + 0.4 / 127.5), RAW)
    assert torch.equal(Image().decode(torch.tensor([-3.0, 3.0])), torch.tensor([0, 255], dtype=torch.uint8))


def test_plane_and_float_image_keep_their_values():
    x = torch.randn(9, 2, generator=R.generator("x"), dtype=torch.float64)
    assert torch.equal(Plane().encode(x, R.generator("a")), x.float())
    assert torch.equal(Plane().decode(x), x)
    image = torch.randn(4, 2, 3, 3)
    assert torch.equal(FloatImage().decode(FloatImage().encode(image, None)), image)


def test_augmentation_off_is_the_identity():
    assert torch.equal(Image().encode(RAW, R.generator("a")), Image().encode(RAW, None))
    busy = Image(1.0, 10.0, 0.1, 0.1, True)
    assert torch.equal(busy.encode(RAW, None), Image().encode(RAW, None))


@pytest.mark.parametrize("option", [{"shift": 1.0}, {"rotation": 20.0}, {"scale": 0.2}, {"shear": 0.2}, {"flip": True}])
def test_augmentation_differs_by_seed_only(option):
    image = Image(**option)
    a, again, b = (image.encode(RAW, R.generator(p)) for p in ("a", "a", "b"))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert a.shape == RAW.shape
    assert a.abs().max() <= 1 + 1e-5


def ramp(n, height, width):
    """Images whose value is linear in the pixel's place, one channel along y and one along x."""
    y = torch.arange(height).float().sub((height - 1) / 2)[:, None].expand(height, width)
    x = torch.arange(width).float().sub((width - 1) / 2)[None].expand(height, width)
    return torch.stack([y, x]).expand(n, 2, height, width)


def jacobian(image, n=400, height=12, width=20):
    """Affine map of the augmentation, read off linear ramps in the middle: (n, 2, 3) as (∂, offset), rows (y, x)."""
    out = image._augment(ramp(n, height, width), R.generator("map"))
    h, w = height // 2, width // 2
    dy = out[:, :, h, w] - out[:, :, h - 1, w]
    dx = out[:, :, h, w] - out[:, :, h, w - 1]
    middle = out[:, :, h - 1 : h + 1, w - 1 : w + 1].mean((2, 3))
    return torch.stack([dy, dx, middle], 2)


def test_rotation_keeps_angles_and_lengths_in_pixels():
    maps = jacobian(Image(rotation=15.0))
    linear = maps[:, :, :2]
    eye = torch.eye(2).expand(400, 2, 2)
    torch.testing.assert_close(linear @ linear.mT, eye, atol=1e-4, rtol=0)
    angle = torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 0, 0]))
    assert 13 < float(angle.abs().max()) <= 15.01
    assert abs(float(angle.mean())) < 4.5 * 15 / (3 * 400) ** 0.5
    torch.testing.assert_close(maps[:, :, 2], torch.zeros(400, 2), atol=1e-4, rtol=0)


def test_shift_is_in_pixels_of_both_axes():
    maps = jacobian(Image(shift=2.0))
    torch.testing.assert_close(maps[:, :, :2], torch.eye(2).expand(400, 2, 2), atol=1e-4, rtol=0)
    for k in range(2):
        assert 1.9 < float(maps[:, k, 2].abs().max()) <= 2.001
        assert abs(float(maps[:, k, 2].mean())) < 4.5 * 2 / (3 * 400) ** 0.5


def test_scale_shear_and_flip():
    zoom = jacobian(Image(scale=0.2))
    s = 1 / zoom[:, 0, 0]
    torch.testing.assert_close(zoom[:, :, :2], torch.eye(2) / s[:, None, None], atol=1e-4, rtol=0)
    assert 0.8 <= float(s.min()) < 0.83
    assert 1.17 < float(s.max()) <= 1.2001
    sheared = jacobian(Image(shear=0.3))
    torch.testing.assert_close(sheared[:, 0, :2], torch.tensor([1.0, 0.0]).expand(400, 2), atol=1e-4, rtol=0)
    assert 0.28 < float(sheared[:, 1, 0].abs().max()) <= 0.301
    raw = RAW[:1].expand(400, 1, 16, 16)
    plain, flipped = Image().encode(raw, None), Image(flip=True).encode(raw, R.generator("f"))
    same = (flipped - plain).abs().amax((1, 2, 3)) < 1e-4
    mirrored = (flipped - plain.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert (same ^ mirrored).all()
    assert 150 < int(same.sum()) < 250


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Image(shift=-1.0), "modality.shift is -1"),
        (lambda: Image(scale=1.0), "below 1.0"),
        (lambda: Image(rotation=float("nan")), "Image.rotation=nan is not a finite number"),
        (lambda: Image(outside="black"), "border, zeros or reflection"),
        (lambda: Image().encode(torch.zeros(2, 1, 4, 4), None), "uint8"),
        (lambda: FloatImage(1.0, 1.0), "modality.high"),
        (lambda: Plane().render({}, "unused.png"), "at least one row"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(FlowportError, match=words):
        make()


@pytest.mark.parametrize(
    ("modality", "rows"),
    [
        (Plane(), {"source": torch.randn(50, 2), "a longer name": torch.randn(70, 2)}),
        (Plane(), {"cloud": torch.randn(3, 10, 3), "line": torch.randn(20, 1), "lost": torch.full((4, 2), torch.nan)}),
        (Image(), {"grey": torch.rand(3, 1, 8, 8), "colour": torch.rand(40, 3, 28, 28)}),
        (FloatImage(0.0, 5.0), {"two channels": torch.rand(3, 2, 8, 6), "nan": torch.full((2, 1, 8, 8), torch.nan)}),
    ],
)
def test_pictures_are_written_and_returned(tmp_path, modality, rows):
    import matplotlib.image

    path = str(tmp_path / "folder" / "picture.png")
    picture = modality.render(rows, path)
    assert picture.dtype == torch.uint8
    assert picture.shape[0] == 3
    stored = torch.from_numpy(matplotlib.image.imread(path))[..., :3].mul(255).round().to(torch.uint8)
    assert torch.equal(stored.permute(2, 0, 1), picture)


def test_pixels_stay_crisp(tmp_path):
    x = Image().encode(RAW[:1], None)
    picture = Image().render({"a": x}, str(tmp_path / "a.png"))
    block = picture[:, 10:, picture.shape[2] - 10 - 64 :][:, :64, :64]
    expected = RAW[0].repeat_interleave(4, 1).repeat_interleave(4, 2).expand(3, 64, 64)
    assert (block.int() - expected.int()).abs().max() <= 1


def test_dequantised_bytes_are_uniform_in_their_cells_and_come_back_exactly():
    raw = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(400, -1, -1, -1)
    image = Image(dequantise=True)
    x = image.encode(raw, torch.Generator().manual_seed(0))
    assert torch.equal(image.decode(x), raw) and torch.equal(image.decode(image.encode(raw, None)), raw)
    inside = (x.double() + 1) * 128 - raw  # U(0, 1)
    assert inside.min() > 0 and inside.max() < 1
    n = inside.numel()
    assert abs(float(inside.mean()) - 1 / 2) < 3 * math.sqrt(1 / 12 / n)
    assert abs(float(inside.square().mean()) - 1 / 3) < 3 * math.sqrt(4 / 45 / n)
    assert x.min() > -1 and x.max() < 1


def test_a_lift_fits_whole_images_centred_on_black():
    raw = torch.full((2, 1, 8, 8), 200, dtype=torch.uint8)
    x = Image(size=(16, 8), channels=3).encode(raw, None)
    seen = Image().decode(x)
    assert x.shape == (2, 3, 16, 8)
    assert (seen[:, :, 4:12] == 200).all() and (seen[:, :, :4] == 0).all() and (seen[:, :, 12:] == 0).all()
    tall = Image(size=(4, 4)).encode(torch.full((1, 1, 8, 4), 255, dtype=torch.uint8), None)
    assert torch.allclose(tall[0, 0], torch.tensor([[-1.0, 1.0, 1.0, -1.0]]).expand(4, 4))


def test_a_lift_rounds_its_sides_and_averages_what_it_shrinks():
    """7 x 10 fits 9 x 8 as 5.6 x 8, so as 6; a thread stays a pixel wide. Of columns, every fourth white, a triangle
    of eight takes 5/8 of one and 3/8 of the next over a sum of 4: a quarter of white."""
    white = torch.full((1, 1, 7, 10), 255, dtype=torch.uint8)
    lit = Image(size=(9, 8)).encode(white, None)[0, 0] > 0
    assert lit.all(1).tolist() == [False] + 6 * [True] + 2 * [False]
    thread = Image(size=(8, 8)).encode(torch.full((1, 1, 40, 1), 255, dtype=torch.uint8), None)[0, 0] > 0
    assert thread.all(0).tolist() == 3 * [False] + [True] + 4 * [False]
    fence = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    fence[..., ::4] = 255
    torch.testing.assert_close(Image(size=(4, 4)).encode(fence, None)[..., 1:3], torch.full((1, 1, 4, 2), -0.5))


def test_colour_becomes_grey_by_its_luma():
    raw = torch.tensor([255, 0, 0, 0, 255, 0, 0, 0, 255], dtype=torch.uint8).view(3, 3, 1, 1)
    x = Image(channels=1).encode(raw, None).flatten()
    assert torch.allclose((x + 1) / 2, torch.tensor([0.299, 0.587, 0.114]), atol=1e-6)


@pytest.mark.parametrize("options", [{"channels": 2}, {"size": (0, 8)}, {"size": (8, 8, 8)}])
def test_an_impossible_lift_is_refused(options):
    with pytest.raises(FlowportError, match=r"modality\.size and channels"):
        Image(**options)


def test_silhouettes_lift_to_the_shape_of_spectrograms():
    """What does not fit is refused with both shapes; a lift makes it fit."""
    notes = Notes(Brass(), train=10)
    with pytest.raises(FlowportError, match=r"\(1, 28, 28\).*\(1, 64, 32\)"):
        UnpairedPairing(Silhouettes(), notes)
    lifted = Silhouettes(modality=Image(size=notes.event_shape[1:]))
    assert UnpairedPairing(lifted, notes).pairs(0, 2, Randomness(0)).source.x.shape == (2, 1, 64, 32)
