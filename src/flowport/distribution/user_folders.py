"""Data sets given by a folder of the user: images, recordings or point clouds and meshes."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, final

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageOps
from scipy.signal import resample_poly
from torch import Tensor

from flowport.distribution.base import Stored
from flowport.distribution.folder import collect
from flowport.errors import FlowportError, Range
from flowport.modality import Cloud, Image, LogMel, Modality, Spectrogram


def _read(path: str, suffixes: tuple[str, ...], decode: partial[NDArray[Any]], skip_bad_files: bool) -> dict[str, Any]:
    """Arguments of ``Stored`` for a folder: one tensor, split by file and labelled by sub-folder."""
    found = collect(path, suffixes, decode, f"{decode.func.__name__} {decode.keywords}", skip_bad_files)
    return {
        "name": Path(path).name,
        "raw": found.items,
        "labels": found.classes,
        "splits": found.splits(),
        "classes": len(found.class_names),
        "class_names": found.class_names,
    }


FORMATS = ("PNG", "JPEG", "WEBP")
"""Formats that are read whatever a file is called: others, such as EPS, would start a program."""
LARGEST_PICTURE = 100_000_000
"""Number of pixels of the largest picture that is decoded."""


def _picture(path: Path, size: int, channels: int) -> NDArray[Any]:
    with Picture.open(path, formats=FORMATS) as opened:
        if opened.width * opened.height > LARGEST_PICTURE:
            raise ValueError(f"it has {opened.width} x {opened.height} pixels; at most {LARGEST_PICTURE:,} are read")
        return fitted_picture(opened, size, channels)


def fitted_picture(picture: Picture.Image, size: int, channels: int) -> NDArray[Any]:
    """The central square of an image in its EXIF orientation, resized, (1, channels, size, size) bytes.

    Args:
        picture: The image.
        size: Height and width of the result, in pixels.
        channels: 1 for grey, 3 for colour.
    """
    upright = ImageOps.exif_transpose(picture).convert("L" if channels == 1 else "RGB")
    square = np.asarray(ImageOps.fit(upright, (size, size), Picture.Resampling.BICUBIC))
    return square.reshape(1, size, size, channels).transpose(0, 3, 1, 2).copy()


@final
class ImageFolder(Stored):
    """The images below a folder (.png, .jpg, .jpeg, .webp), each its central square resized to (channels, size, size).

    Files in two or more sub-folders have the sub-folder as class. 80, 10 and 10 per cent of the files are train,
    validation and test.

    Args:
        path: The folder.
        size: Height and width, in pixels.
        channels: 1 for grey, 3 for colour.
        modality: Encodes the images; None for ``Image`` without augmentation.
        skip_bad_files: Whether files that cannot be read are left out with a warning.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When size or channels is impossible, the folder has no such file or fewer than 10 images, a file
            cannot be read, or the split is unknown.
    """

    def __init__(
        self,
        path: str,
        size: Annotated[int, Range(most=16384)] = 32,
        channels: int = 3,
        modality: Modality | None = None,
        skip_bad_files: bool = False,
        part: str = "train",
    ) -> None:
        if size < 1 or channels not in (1, 3):
            raise FlowportError(
                f"an image folder needs size ≥ 1 and channels 1 or 3, not size={size}, channels={channels}"
            )
        decode = partial(_picture, size=size, channels=channels)
        held = _read(path, (".png", ".jpg", ".jpeg", ".webp"), decode, skip_bad_files)
        super().__init__(**held, modality=modality or Image(), part=part)


SLOWEST, FASTEST = 1000, 768_000
"""Sample rates of recordings that are read, Hz."""
PADDING = -32768
"""Value that fills a clip behind the end of its recording in the cache; decoded samples are at least −32767."""


def _clips(path: Path, rate: int, stored: int) -> NDArray[Any]:
    wave, own = soundfile.read(path, dtype="float32", always_2d=True)
    if wave.shape[1] > 2:
        raise ValueError(f"it has {wave.shape[1]} channels; 1 or 2 are understood")
    if len(wave) == 0:
        raise ValueError("it is empty")
    if not np.isfinite(wave).all():
        raise ValueError("it holds NaN or infinite values")
    mono = wave.mean(1)
    if not SLOWEST <= own <= FASTEST:
        raise ValueError(f"its sample rate is {own} Hz; {SLOWEST} to {FASTEST} Hz are understood")
    if own != rate:
        mono = resample_poly(mono, rate, own)
    count = max(1, len(mono) // stored)
    clips = np.full(count * stored, PADDING, dtype=np.int16)
    used = mono[: len(clips)]
    clips[: len(used)] = np.rint(32767 * used.clip(-1, 1))
    return clips.reshape(count, stored)


@final
class AudioFolder(Stored):
    """The recordings below a folder (.wav, .flac, .ogg), as mono clips at the sample rate of the modality, int16.

    A recording is cut into items of ``stored`` samples without its incomplete last one; a shorter recording is one
    item, filled up with silence. Files in two or more sub-folders have the sub-folder as class. 80, 10 and 10 per cent
    of the files are train, validation and test, with all items of a file in one split. A file of more than two channels
    counts as unreadable.

    Args:
        path: The folder.
        samples: Samples that a point shows.
        stored: Samples of an item, at least ``samples``, which is the default. With more, training draws a random crop
            of the item's sound each time, and evaluation takes its beginning.
        mask_padding: Whether samples have a mask that excludes the frames behind the end of the sound.
        modality: Encodes the waves, ``LogMel`` or ``ComplexSTFT``; None for ``LogMel``.
        skip_bad_files: Whether files that cannot be read are left out with a warning.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When samples is less than the window of the modality or more than stored, the folder has no such
            file or fewer than 10 items, a file cannot be read, or the split is unknown.
    """

    modality: Spectrogram

    def __init__(
        self,
        path: str,
        samples: Annotated[int, Range(most=2**28)] = 8192,
        stored: int | None = None,
        mask_padding: bool = False,
        modality: Spectrogram | None = None,
        skip_bad_files: bool = False,
        part: str = "train",
    ) -> None:
        modality, stored = modality or LogMel(), samples if stored is None else stored
        if samples < modality.window:
            raise FlowportError(f"a clip of {samples} samples is shorter than the window of {modality.window}")
        if samples > stored:
            raise FlowportError(f"an audio folder needs samples ≤ stored, not samples={samples}, stored={stored}")
        decode = partial(_clips, rate=modality.rate, stored=stored)
        held = _read(path, (".wav", ".flac", ".ogg"), decode, skip_bad_files)
        self.samples, self.mask_padding = samples, mask_padding
        parts = held["raw"].split(256)  # in parts: torch counts in 64 bits
        self.length = torch.cat([(part != PADDING).sum(1) for part in parts])  # samples of sound in every item
        self.crops = bool((self.length > samples).any())
        if bool((self.length < stored).any()):
            held["raw"] = held["raw"].masked_fill(held["raw"] == PADDING, 0)
        super().__init__(**held, modality=modality, part=part)

    def taken(self, at: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
        length, start = self.length[at], torch.zeros_like(at)
        if generator is not None and self.crops:
            room = (length - self.samples).clamp_min(0)
            share = torch.rand(len(at), generator=generator, device=generator.device).to(at.device)
            start = (share * (room + 1)).long().minimum(room)  # rounding can reach room + 1
        raw = self.raw[at[:, None], start[:, None] + torch.arange(self.samples, device=at.device)]
        if not self.mask_padding:
            return raw, None
        return raw, self.modality.data_frames(length, self.samples)[:, None, None]  # a crop with start > 0 is full

    def to(self, device: torch.device | str) -> "AudioFolder":
        other = super().to(device)
        assert isinstance(other, AudioFolder)
        other.length = self.length.to(device)
        return other


def _points(path: Path, stored: int) -> NDArray[Any]:
    if path.suffix.lower() in (".npy", ".npz"):
        held = np.load(path, allow_pickle=False)
        points = held if isinstance(held, np.ndarray) else held[held.files[0]]
    else:
        points = _surface(path, stored)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"it holds an array {points.shape}, not points (N, 3)")
    if not np.isfinite(points).all():
        raise ValueError("it holds NaN or infinite values")
    draw = torch.Generator().manual_seed(0)  # the choice of points is the same in every run
    rows = torch.cat([torch.randperm(len(points), generator=draw) for _ in range(-(-stored // len(points)))])
    points = points[rows[:stored].numpy()].astype(np.float32)
    points -= points.mean(0)
    spread = np.sqrt((points**2).mean())
    return (points / spread if spread > 0 else points)[None]


def _surface(path: Path, stored: int) -> NDArray[Any]:
    try:
        import trimesh
    except ModuleNotFoundError:
        raise ValueError("meshes need the package trimesh: pip install 'flowport[meshes]'") from None
    mesh: Any = trimesh.load(path, force="mesh", skip_materials=True)  # which may name other files
    if len(mesh.faces) == 0:
        raise ValueError("it has no faces")
    return np.asarray(trimesh.sample.sample_surface(mesh, stored, seed=0)[0])


@final
class CloudFolder(Stored):
    """The point clouds (.npy, .npz) and meshes (.ply, .off, .obj, .stl) below a folder, centred and scaled.

    An array holds points (N, 3); from a mesh, which needs the extra ``meshes``, points are drawn uniformly by area.
    Each cloud is centred and scaled so that the mean square of its coordinates is 1. Files in two or more sub-folders
    have the sub-folder as class. 80, 10 and 10 per cent of the files are train, validation and test.

    Args:
        path: The folder.
        points: Points of an encoded cloud.
        stored: Points stored of each file, of which training draws new ``points`` each time.
        rotate: Whether training rotates each cloud at random.
        skip_bad_files: Whether files that cannot be read are left out with a warning.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When points is not between 1 and stored, the folder has no such file or fewer than 10 clouds, a
            file cannot be read, or the split is unknown.
    """

    def __init__(
        self,
        path: str,
        points: int = 128,
        stored: int = 1024,
        rotate: bool = False,
        skip_bad_files: bool = False,
        part: str = "train",
    ) -> None:
        if not 1 <= points <= stored:
            raise FlowportError(f"a cloud folder needs 1 ≤ points ≤ stored, not points={points}, stored={stored}")
        decode = partial(_points, stored=stored)
        held = _read(path, (".npy", ".npz", ".ply", ".off", ".obj", ".stl"), decode, skip_bad_files)
        super().__init__(**held, modality=Cloud(points, rotate), part=part)
