"""Pictures of every mode, with transparency, in any shape, and back to files."""

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from flowport.distribution import PictureFiles
from flowport.distribution.files import Reading
from flowport.distribution.picture_files import ground, unpremultiplied
from flowport.errors import FlowportError

RAMP = np.tile(np.linspace(0, 255, 24).round().astype(np.uint8), (24, 1))


def read(picture, tmp_path, name="a.png", **options):
    picture.save(tmp_path / name)
    return PictureFiles(**{"size": 24, **options}).read(tmp_path / name).items[0]


@pytest.mark.parametrize(
    "picture",
    [
        Picture.fromarray(RAMP),
        Picture.fromarray(RAMP.astype(np.uint16) * 257),
        Picture.fromarray(RAMP.astype(np.int32) * 257),
        Picture.fromarray(RAMP.astype(np.float32) / 255),
        Picture.fromarray(RAMP.astype(np.float32)),
        Picture.fromarray(RAMP.astype(np.float32) * 257),
        Picture.merge("RGB", [Picture.fromarray(RAMP)] * 3),
        Picture.merge("RGB", [Picture.fromarray(RAMP)] * 3).convert("CMYK"),
        Picture.fromarray(RAMP).convert("P"),
        Picture.merge("LA", [Picture.fromarray(RAMP), Picture.new("L", (24, 24), 255)]),
        Picture.merge("RGB", [Picture.fromarray(RAMP)] * 3).convert("RGBA"),
    ],
    ids=["L", "I;16", "I", "F 0…1", "F 0…255", "F 0…65535", "RGB", "CMYK", "P", "LA", "RGBA"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_keeps_its_greys(picture, channels, tmp_path):
    items = read(picture, tmp_path, "a.tif", channels=channels)
    assert items.shape == (channels, 24, 24) and items.dtype == np.uint8
    assert np.abs(items.astype(int) - RAMP).max() <= 1


def test_one_bit_and_animated_pictures(tmp_path):
    assert set(np.unique(read(Picture.fromarray(RAMP > 127), tmp_path, channels=1))) == {0, 255}
    frames = [Picture.new("RGB", (24, 24), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert PictureFiles(24).read(tmp_path / "a.gif").items[0, :, 0, 0].tolist() == [255, 0, 0], "the first frame"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tif"])
def test_formats(name, tmp_path):
    red = read(Picture.new("RGB", (40, 40), (250, 10, 10)), tmp_path, name)
    assert np.abs(red[:, 5, 5].astype(int) - [250, 10, 10]).max() <= 4


@pytest.mark.parametrize("values", [np.nan, -1.0, 7e4])
def test_values_that_are_not_understood_are_refused(values, tmp_path):
    Picture.fromarray(np.full((24, 24), values, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="its values are"):
        PictureFiles(24).read(tmp_path / "a.tif")


def half(colour):
    """The left half invisible but of a loud colour, the right one half opaque."""
    pixels = np.zeros((48, 48, 4), np.uint8)
    pixels[:, :24] = (255, 0, 255, 0)
    pixels[:, 24:] = (*colour, 128)
    return Picture.fromarray(pixels)


@pytest.mark.parametrize(("background", "behind"), [("white", 255), ("black", 0)])
def test_transparency_shows_the_background_and_no_invisible_colour(background, behind, tmp_path):
    items = read(half((200, 100, 0)), tmp_path, background=background)
    assert np.ptp(items[:, 3, :11]) == 0
    assert items[:, 3, 3].tolist() == [behind] * 3
    share = 128 / 255
    wanted = np.rint(share * np.array([200, 100, 0]) + (1 - share) * behind)
    assert np.abs(items[:, 3, 20] - wanted).max() <= 1
    red, green, blue = items[:, 3, 11:13].astype(int)
    assert (blue <= green + 1).all() and (green <= red + 1).all(), "no magenta bleeds over the edge"
    grey = read(half((200, 100, 0)), tmp_path, background=background, channels=1)
    assert grey.shape == (1, 24, 24) and grey[0, 3, 3] == behind


def test_the_checkered_background_has_both_greys(tmp_path):
    items = read(Picture.new("RGBA", (24, 24)), tmp_path, background="checker")
    assert np.array_equal(items[0], ground("checker", 24, 24)) and set(np.unique(items)) == {102, 153}


def test_kept_transparency_comes_back_as_it_was(tmp_path):
    files = PictureFiles(48, background="alpha")
    half((200, 100, 0)).save(tmp_path / "a.png")
    items = files.read(tmp_path / "a.png").items
    assert items.shape == (1, 4, 48, 48)
    assert items[0, :, 3, 3].tolist() == [0, 0, 0, 0] and items[0, :, 3, 40].tolist() == [100, 50, 0, 128]
    files.write(torch.from_numpy(items[0]), tmp_path / "b", ".png", Reading(items))
    with Picture.open(tmp_path / "b") as again:
        assert again.mode == "RGBA" and again.getpixel((3, 3))[3] == 0
        assert np.abs(np.array(again.getpixel((40, 3))) - (200, 100, 0, 128)).max() <= 1
    assert [files.written(suffix) for suffix in (".png", ".jpg", ".gif", ".webp")] == [".png", ".png", ".png", ".webp"]
    assert unpremultiplied(np.array([[0, 0, 0, 0]], dtype=np.uint8)).tolist() == [[0, 0, 0, 0]]


def test_rectangles_are_cropped_padded_or_squashed(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200  # the middle square
    pixels[:, :20, 0] = 255
    picture = Picture.fromarray(pixels)
    crop = read(picture, tmp_path, size=20)
    assert crop.shape == (3, 20, 20) and crop[:, 10, 10].tolist() == [200] * 3
    pad = read(picture, tmp_path, size=[60, 60], fit="pad")
    assert pad[:, 2, 30].tolist() == [255] * 3 and pad[:, 30, 5].tolist() == [255, 0, 0], "on white"
    assert pad[0, :, 30].tolist().count(200) == 20, "whole"
    squash = read(picture, tmp_path, size=[30, 15], fit="squash")
    assert squash.shape == (3, 30, 15) and squash[:, 15, 7].tolist() == [200] * 3 and squash[0, 15, 1] == 255


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 0}, "size"),
        ({"size": [8]}, r"size=\[height,width\]"),
        ({"size": [8, 8, 8]}, r"size=\[height,width\]"),
        ({"channels": 2}, "channels 1 or 3"),
        ({"channels": 1, "background": "alpha"}, "background=alpha"),
    ],
)
def test_impossible_settings_are_refused(options, told):
    with pytest.raises(FlowportError, match=told):
        PictureFiles(**options)


def test_settings_rebuild_an_equal_reader():
    files = PictureFiles([8, 9], 1, "black", "pad")
    assert vars(PictureFiles(**files.options())) == vars(files)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_written_pictures_are_read_again(suffix, channels, tmp_path):
    files, raw = PictureFiles(24, channels), torch.from_numpy(np.stack([RAMP] * channels))
    files.write(raw, tmp_path / f"a{suffix}", suffix, Reading(raw.numpy()))
    assert np.array_equal(files.read(tmp_path / f"a{suffix}").items[0], raw.numpy())
