"""Characters drawn in the typefaces that ship with matplotlib: a character in two faces is a pair of true partners."""

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from flowport.distribution.base import Stored
from flowport.distribution.parts import split_by_name
from flowport.errors import FlowportError
from flowport.modality import Image, Modality

FACES = {
    "sans": "DejaVuSans",
    "sans_bold": "DejaVuSans-Bold",
    "sans_oblique": "DejaVuSans-Oblique",
    "serif": "DejaVuSerif",
    "serif_bold": "DejaVuSerif-Bold",
    "serif_italic": "DejaVuSerif-Italic",
    "mono": "DejaVuSansMono",
    "mono_bold": "DejaVuSansMono-Bold",
    "mono_oblique": "DejaVuSansMono-Oblique",
    "stix": "STIXGeneral",
    "stix_bold": "STIXGeneralBol",
    "stix_italic": "STIXGeneralItalic",
    "computer_modern": "cmr10",
    "computer_modern_bold": "cmb10",
    "computer_modern_sans": "cmss10",
    "computer_modern_mono": "cmtt10",
    "computer_modern_italic": "cmti10",
}
"""Names of faces and their font files."""
SCRIPTS = ("latin", "greek", "cyrillic", "other")
"""Classes of characters: the first word of their Unicode name."""
DRAWN = ("L", "N", "P", "S")
"""First letters of the Unicode categories that are drawn: letters, numbers, punctuation and symbols."""
EM, BASELINE = 20 / 28, 21 / 28
"""Font size and place of the baseline from the top, in heights of the image."""
FINER = 4
"""Characters are drawn this many times larger and averaged, so that no hinting moves their outlines."""


def _named(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, 'UNNAMED')}"


def _font(face: str) -> Any:
    import matplotlib
    from matplotlib.ft2font import FT2Font

    return FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{FACES[face]}.ttf"))


@lru_cache(maxsize=64)
def _characters(face: str) -> frozenset[str]:
    held = map(chr, _font(face).get_charmap())
    return frozenset(c for c in held if unicodedata.category(c)[0] in DRAWN)


@lru_cache(maxsize=64)
def _images(face: str, characters: tuple[str, ...], size: int) -> Tensor:
    """Every character on its baseline, centred, (n, 1, size, size) uint8; black where it does not fit."""
    font, side = _font(face), size * FINER
    font.set_size(EM * side, 72)
    canvas = torch.zeros(len(characters), 1, side, side)
    for image, character in zip(canvas[:, 0], characters, strict=True):
        font.set_text(character)
        font.draw_glyphs_to_bitmap(antialiased=True)
        drawn = torch.tensor(font.get_image(), dtype=torch.float32)
        held = (drawn > 0).nonzero()
        if len(held) == 0:
            continue
        bottom = round(BASELINE * side + font.get_descent() / 64)
        top, left = bottom - drawn.shape[0], (side - drawn.shape[1]) // 2
        if top >= 0 and left >= 0 and bottom <= side:
            image[top:bottom, left : left + drawn.shape[1]] = drawn
    return F.avg_pool2d(canvas, FINER).round().to(torch.uint8)


@lru_cache(maxsize=32)
def _drawn(face: str, common: tuple[str, ...], size: int) -> tuple[tuple[str, ...], Tensor]:
    """The characters of all faces that can be told apart in each of them, and their images in the first one."""
    faces = dict.fromkeys((face, *common))
    characters = tuple(sorted(frozenset[str].intersection(*map(_characters, faces))))
    images = [_images(each, characters, size) for each in faces]
    bytes_of = [[image.numpy().tobytes() for image in drawn] for drawn in images]
    seen: list[set[bytes]] = [{bytes(size * size)} for _ in faces]  # a blank one is no character
    kept = list[int]()
    for k in range(len(characters)):
        if not any(held[k] in before for held, before in zip(bytes_of, seen, strict=True)):
            kept.append(k)
            for held, before in zip(bytes_of, seen, strict=True):
                before.add(held[k])
    return tuple(characters[k] for k in kept), images[0][kept]


@final
class Glyphs(Stored):
    """Characters of one typeface as grey images, white on black, with the script as class.

    Items are named by their character, so that the same character in another face is the true partner. A hash of the
    name decides the split: a character that is held out in one face is held out in all, 20 % for test and 5 % for
    validation. Of characters that look the same in a face that is drawn (Latin and Greek capital A) one is kept, so
    that no held-out image is seen in training. The font size is 5/7 of the height, on one baseline; letters, numbers,
    punctuation and symbols that fit are drawn. DejaVu Sans, Serif and Mono have about 2400 characters in common, STIX
    has about 1200 of these and Computer Modern 130.

    Args:
        face: One of ``FACES``.
        common: Faces of which every one must have a character; two data sets with the same list have the same
            characters as far as their faces allow.
        size: Height and width of the image (1, size, size), in pixels.
        modality: Encodes the images; None for ``Image`` without augmentation.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: For an unknown face, a size below 8, or a split without characters.
    """

    def __init__(
        self,
        face: str = "sans",
        common: Iterable[str] = ("sans", "serif", "mono", "stix"),
        size: int = 28,
        modality: Modality | None = None,
        part: str = "train",
    ) -> None:
        shared = tuple(common)
        for each in (face, *shared):
            if each not in FACES:
                raise FlowportError(f"glyphs.face and glyphs.common know no face {each!r}: one of {', '.join(FACES)}")
        if size < 8:
            raise FlowportError(f"glyphs.size is {size}; it must be at least 8")
        characters, raw = _drawn(face, shared, size)
        names = tuple(map(_named, characters))
        words = [name.split()[1].lower() for name in names]
        labels = torch.tensor([SCRIPTS.index(word) if word in SCRIPTS else len(SCRIPTS) - 1 for word in words])
        super().__init__(
            f"glyphs of {face}",
            raw,
            labels,
            modality or Image(),
            split_by_name(names),
            part,
            classes=len(SCRIPTS),
            class_names=SCRIPTS,
            names=names,
        )
