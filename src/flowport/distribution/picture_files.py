"""Files of pictures: any mode and orientation, resized, with transparency laid upon a background or kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageOps
from torch import Tensor

from flowport.distribution.files import Files, Reading
from flowport.errors import FlowportError, Range

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are read whatever a file is called: others, such as EPS, would start a program."""
LARGEST_PICTURE = 100_000_000
"""Number of pixels of the largest picture that is decoded."""
WRITTEN = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Formats that are written, by suffix."""
QUALITY: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}
SIXTEEN_BITS = 65535
SQUARES, DARK, BRIGHT = 4, 102, 153
"""Squares along the shorter side of the checkered background, and its two greys."""
Background = Literal["white", "black", "checker", "alpha"]
Fit = Literal["crop", "pad", "squash"]


class PictureFiles(Files):
    """Pictures, (1, C, H, W) bytes: of several frames the first, upright by their EXIF orientation.

    Grey pictures of 16 bits are divided by 257, floating ones in [0, 1] multiplied by 255 (in [0, 255] they are kept,
    in [0, 65535] divided by 257). Transparent pictures are resized with premultiplied colours, so that what is
    invisible has no influence, and laid upon the background.

    Args:
        size: Height and width in pixels, or one number for both.
        channels: 1 for grey, 3 for colour.
        background: What shows through transparency: white, black, a checker of two greys, or ``"alpha"``, which keeps
            it: C = 4, colours multiplied by opacity, and opacity.
        fit: ``"crop"`` cuts off what is beyond the aspect ratio of ``size``, ``"pad"`` shows the whole picture upon the
            background, ``"squash"`` stretches it.

    Raises:
        FlowportError: When size or channels is impossible.
    """

    kind: ClassVar[str] = "pictures"
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
    unread: ClassVar[dict[str, str]] = {
        ".svg": "draw them as png first",
        ".heic": "save them as jpg first",
        ".avif": "save them as png first",
        ".psd": "save them as png first",
    }
    packages: ClassVar[dict[str, str]] = {"PIL": "pillow"}
    plain = ".png"
    rewritten: ClassVar[dict[str, str]] = {".gif": ".png"}

    def __init__(
        self,
        size: Annotated[int, Range(least=1, most=16384)] | Sequence[int] = 32,
        channels: int = 3,
        background: Background = "white",
        fit: Fit = "crop",
    ) -> None:
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(sides) != 2 or not all(isinstance(n, int) and 1 <= n <= 16384 for n in sides) or channels not in (1, 3):
            raise FlowportError(
                f"an image folder needs size=n or size=[height,width] of 1 to 16384 pixels and channels 1 or 3, not "
                f"size={size}, channels={channels}"
            )
        if background == "alpha" and channels == 1:
            raise FlowportError("background=alpha keeps colour and opacity: leave channels=3, or choose another ground")
        self.size, self.channels, self.background, self.fit = (sides[0], sides[1]), channels, background, fit

    def options(self) -> dict[str, Any]:
        size = list(self.size)
        return {"size": size, "channels": self.channels, "background": self.background, "fit": self.fit}

    def read(self, path: Path) -> Reading:
        Picture.init()  # registers the formats that are named
        with Picture.open(path, formats=FORMATS) as opened:
            if opened.width * opened.height > LARGEST_PICTURE:
                raise ValueError(
                    f"it has {opened.width} x {opened.height} pixels; at most {LARGEST_PICTURE:,} are read"
                )
            return Reading(self.fitted(opened))

    def fitted(self, picture: Picture.Image) -> NDArray[Any]:
        """An opened picture at the size, (1, C, H, W) bytes.

        Args:
            picture: The picture.

        Raises:
            ValueError: When its values are out of the range that is understood.
        """
        upright = _bytes(ImageOps.exif_transpose(picture))
        if upright.has_transparency_data or self.fit == "pad" or self.background == "alpha":
            pixels = self._laid(np.asarray(self._sized(upright.convert("RGBA"))).astype(np.float32))
        else:
            pixels = np.asarray(self._sized(upright.convert("L" if self.channels == 1 else "RGB")))
        return pixels.reshape(1, *self.size, -1).transpose(0, 3, 1, 2).copy()

    def _sized(self, picture: Picture.Image) -> Picture.Image:
        size = self.size[::-1]
        if self.fit == "squash":
            return picture.resize(size, Picture.Resampling.BICUBIC)
        if self.fit == "crop":
            return ImageOps.fit(picture, size, Picture.Resampling.BICUBIC)
        whole = ImageOps.contain(picture, size, Picture.Resampling.BICUBIC)
        canvas = Picture.new("RGBA", size)
        canvas.paste(whole, ((size[0] - whole.width) // 2, (size[1] - whole.height) // 2))
        return canvas

    def _laid(self, rgba: NDArray[Any]) -> NDArray[Any]:
        """Colour and opacity (H, W, 4) upon the background, (H, W, C) bytes."""
        share = rgba[..., 3:] / 255
        if self.background == "alpha":
            laid = np.concatenate([rgba[..., :3] * share, rgba[..., 3:]], 2)
        else:
            laid = rgba[..., :3] * share + (1 - share) * ground(self.background, *self.size)[..., None]
        pixels = np.rint(laid).clip(0, 255).astype(np.uint8)
        return np.asarray(Picture.fromarray(pixels).convert("L")) if self.channels == 1 else pixels

    def write(self, raw: Tensor, path: Path, suffix: str, reading: Reading) -> None:
        pixels = raw.permute(1, 2, 0).cpu().numpy()
        if pixels.shape[2] == 4:
            pixels = unpremultiplied(pixels)
        picture = Picture.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        kind = WRITTEN[suffix]
        picture.save(
            path, kind, **({"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {})
        )

    def written(self, suffix: str) -> str:
        if self.background == "alpha" and suffix in (".jpg", ".jpeg", ".bmp"):
            return ".png"  # which has room for transparency
        return super().written(suffix)


def ground(background: str, height: int, width: int) -> NDArray[Any]:
    """A background of greys, (height, width) float.

    Args:
        background: white, black or checker.
        height: In pixels.
        width: In pixels.
    """
    if background != "checker":
        return np.full((height, width), 255.0 if background == "white" else 0.0)
    side = max(1, min(height, width) // SQUARES)
    odd = (np.arange(height)[:, None] // side + np.arange(width)[None] // side) % 2
    return np.where(odd, DARK, BRIGHT).astype(np.float64)


def unpremultiplied(pixels: NDArray[Any]) -> NDArray[Any]:
    """Colours divided by their opacity, (…, 4) bytes; of no opacity 0.

    Args:
        pixels: Colours multiplied by opacity, and opacity, (…, 4) bytes.
    """
    opacity = pixels[..., 3:].astype(np.float32)
    colours = np.divide(pixels[..., :3] * 255.0, opacity, out=np.zeros(pixels[..., :3].shape), where=opacity > 0)
    return np.concatenate([np.rint(colours).clip(0, 255), opacity], -1).astype(np.uint8)


def _bytes(picture: Picture.Image) -> Picture.Image:
    """A grey picture of 16 bits, whole numbers or floating values as one of bytes; others unchanged."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and low >= 0 and high <= SIXTEEN_BITS):
        raise ValueError(
            f"its values are {low:g} to {high:g}; understood are 0 to 65535, and 0 to 1 or 0 to 255 of floating ones"
        )
    if picture.mode == "F" and high <= 255:
        values = values * 255 if high <= 1 else values
    else:
        values = values / 257
    return Picture.fromarray(np.rint(values).astype(np.uint8))
