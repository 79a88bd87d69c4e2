"""The user's own folders: pictures, recordings, shapes."""

from functools import partial
from pathlib import Path
from typing import Any, final

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
from flowport.errors import FlowportError
from flowport.modality import Cloud, Image, LogMel, Modality, Spectrogram


def _read(path: str, suffixes: tuple[str, ...], decode: partial[NDArray], skip_bad_files: bool) -> dict[str, Any]:
    """What the three give to ``Stored``: one tensor, split by file, labelled by sub-folder."""
    found = collect(path, suffixes, decode, f"{decode.func.__name__} {decode.keywords}", skip_bad_files)
    classes = 0 if found.classes is None else int(found.classes.max()) + 1
    return {
        "name": Path(path).name,
        "raw": found.items,
        "labels": found.classes,
        "splits": found.splits(),
        "classes": classes,
    }


def _picture(path: Path, size: int, channels: int) -> NDArray:
    with Picture.open(path) as opened:
        return fitted_picture(opened, size, channels)


def fitted_picture(picture: Picture.Image, size: int, channels: int) -> NDArray:
    """The middle square of a picture, upright, resized: (1, channels, size, size) bytes."""
    upright = ImageOps.exif_transpose(picture).convert("L" if channels == 1 else "RGB")
    square = np.asarray(ImageOps.fit(upright, (size, size), Picture.Resampling.BICUBIC))
    return square.reshape(1, size, size, channels).transpose(0, 3, 1, 2).copy()


@final
class ImageFolder(Stored):
    """Every .png, .jpg, .jpeg and .webp below ``path``: its middle square, resized to (channels, size, size) bytes.

    channels: 1 grey, 3 colour. modality: Image(), or one with augmentation. Raises FlowportError as
    ``distribution.folder.collect`` does.
    """

    def __init__(
        self,
        path: str,
        size: int = 32,
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


PADDING = -32768
"""What follows the end of a recording in the cache; no decoded sample is so low."""


def _clips(path: Path, rate: int, stored: int) -> NDArray:
    wave, own = soundfile.read(path, dtype="float32", always_2d=True)
    if wave.shape[1] > 2:
        raise ValueError(f"it has {wave.shape[1]} channels; 1 or 2 are understood")
    if len(wave) == 0:
        raise ValueError("it is empty")
    if not np.isfinite(wave).all():
        raise ValueError("it holds NaN or infinite values")
    mono = wave.mean(1)
    if own != rate:
        mono = resample_poly(mono, rate, own)
    count = max(1, len(mono) // stored)
    clips = np.full(count * stored, PADDING, dtype=np.int16)
    kept = mono[: len(clips)]
    clips[: len(kept)] = np.rint(32767 * kept.clip(-1, 1))
    return clips.reshape(count, stored)


@final
class AudioFolder(Stored):
    """Every .wav, .flac and .ogg below ``path``: one channel at ``rate`` Hz (the modality's), cut into items of
    ``stored`` samples; a shorter recording is one item, filled up with silence. Items of one file lie in one split.

    samples: of a point. stored: kept of an item, by default ``samples``; with more, training draws ``samples`` at
    random from the sound of the item each time, and evaluation takes the first. mask_padding: points come with a mask
    that leaves out the frames behind the end of the sound. modality: LogMel(), or ComplexSTFT().
    Raises FlowportError as ``distribution.folder.collect`` does; a sound of more than two channels counts as a file
    that cannot be read.
    """

    modality: Spectrogram

    def __init__(
        self,
        path: str,
        samples: int = 8192,
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
        parts = held["raw"].split(256)  # torch would count all at once in 64 bits
        self.length = torch.cat([(part != PADDING).sum(1) for part in parts])  # of the sound of every item
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
        return raw, self.modality.heard(length, self.samples)[:, None, None]  # a later start is filled

    def to(self, device: torch.device | str) -> "AudioFolder":
        other = super().to(device)
        assert isinstance(other, AudioFolder)
        other.length = self.length.to(device)
        return other


def _points(path: Path, stored: int) -> NDArray:
    if path.suffix.lower() in (".npy", ".npz"):
        held = np.load(path, allow_pickle=False)
        points = held if isinstance(held, np.ndarray) else held[held.files[0]]
    else:
        points = _surface(path, stored)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"it holds an array {points.shape}, not points (N, 3)")
    if not np.isfinite(points).all():
        raise ValueError("it holds NaN or infinite values")
    draw = torch.Generator().manual_seed(0)  # which of its points are kept, the same on every run
    rows = torch.cat([torch.randperm(len(points), generator=draw) for _ in range(-(-stored // len(points)))])
    points = points[rows[:stored].numpy()].astype(np.float32)
    points -= points.mean(0)
    spread = np.sqrt((points**2).mean())
    return (points / spread if spread > 0 else points)[None]


def _surface(path: Path, stored: int) -> NDArray:
    try:
        import trimesh
    except ModuleNotFoundError:
        raise ValueError("meshes need the package trimesh: pip install 'flowport[meshes]'") from None
    mesh: Any = trimesh.load(path, force="mesh")
    if len(mesh.faces) == 0:
        raise ValueError("it has no faces")
    return np.asarray(trimesh.sample.sample_surface(mesh, stored, seed=0)[0])


@final
class CloudFolder(Stored):
    """Every .npy and .npz below ``path`` with points (N, 3), and meshes (.ply, .off, .obj, .stl; extra ``meshes``), of
    which points are drawn uniformly by area. Every cloud is centred and scaled to coordinates of mean square 1.

    points: of an encoded cloud; stored: kept of every file, of which training draws fresh ``points`` each time.
    rotate: training turns every cloud at random. Raises FlowportError as ``distribution.folder.collect`` does.
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
