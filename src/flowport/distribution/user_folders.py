"""Data sets given by a folder of the user: pictures, recordings or point clouds and meshes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, final

import torch
from torch import Tensor

from flowport.distribution.base import Stored
from flowport.distribution.cloud_files import CloudFiles
from flowport.distribution.files import Files
from flowport.distribution.folder import collect, listed
from flowport.distribution.picture_files import Background, Fit, PictureFiles
from flowport.distribution.sound_files import PADDING, SoundFiles, common_rate
from flowport.errors import Count, FlowportError, Range
from flowport.modality import Cloud, Image, LogMel, Modality, Spectrogram


def _held(path: str, files: Files, skip_bad_files: bool, group_by: str | None) -> dict[str, Any]:
    """Arguments of ``Stored`` for a folder: one tensor, split by file and labelled by sub-folder."""
    found = collect(path, files, skip_bad_files, group_by)
    return {
        "name": Path(path).name,
        "raw": found.items,
        "labels": found.classes,
        "splits": found.splits(),
        "classes": len(found.class_names),
        "class_names": found.class_names,
        "names": found.item_names(),
        "files": files,
    }


@final
class ImageFolder(Stored):
    """The pictures below a folder (``PictureFiles``), each resized to (C, height, width) bytes.

    Files in two or more sub-folders have the sub-folder as class. 80, 10 and 10 per cent of the files are train,
    validation and test; equal names of two folders lie in the same split.

    Args:
        path: The folder.
        size: Height and width in pixels, or one number for both.
        channels: 1 for grey, 3 for colour.
        background: What shows through transparency: white, black, checker, or alpha to keep it as a fourth channel.
        fit: How another aspect ratio is fitted: crop, pad or squash.
        modality: Encodes the pictures; None for ``Image`` without augmentation.
        skip_bad_files: Whether files that cannot be read are left out with a warning.
        group_by: Regular expression searched in file names; files of one folder and match lie in one split.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When an option is impossible, the folder has no such file or fewer than 10 pictures, a file
            cannot be read, or the split is unknown.
    """

    def __init__(
        self,
        path: str,
        size: Annotated[int, Range(least=1, most=16384)] | Sequence[int] = 32,
        channels: int = 3,
        background: Background = "white",
        fit: Fit = "crop",
        modality: Modality | None = None,
        skip_bad_files: bool = False,
        group_by: str | None = None,
        part: str = "train",
    ) -> None:
        files = PictureFiles(size, channels, background, fit)
        held = _held(path, files, skip_bad_files, group_by)
        super().__init__(**held, modality=modality or Image(), part=part)


@final
class AudioFolder(Stored):
    """The recordings below a folder (``SoundFiles``), as mono pieces at the sample rate of the modality, int16.

    A recording is cut into items of ``stored`` samples, of which the last one is filled up with silence. Files in two
    or more sub-folders have the sub-folder as class. 80, 10 and 10 per cent of the files are train, validation and
    test, with all items of a file in one split; equal names of two folders lie in the same split.

    Args:
        path: The folder.
        samples: Samples that a point shows; None for ``frames`` frames of the modality.
        stored: Samples of an item, at least ``samples``; None for ``stored_frames`` frames. With more than ``samples``,
            training draws a random crop of the item's sound each time, and evaluation takes its beginning.
        frames: Frames of a point whose number of samples is not given.
        stored_frames: Frames of an item whose number of samples is not given; None for those of a point.
        mask_padding: Whether samples have a mask that excludes the frames behind the end of the sound.
        modality: Encodes the waves, ``LogMel`` or ``ComplexSTFT``; None for ``LogMel``.
        skip_bad_files: Whether files that cannot be read are left out with a warning.
        group_by: Regular expression searched in file names; files of one folder and match lie in one split.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When samples is less than the window of the modality or more than stored, the folder has no such
            file or fewer than 10 items, a file cannot be read, or the split is unknown.
    """

    modality: Spectrogram

    def __init__(
        self,
        path: str,
        samples: Annotated[int, Range(most=2**28)] | None = 8192,
        stored: int | None = None,
        frames: Count = 32,
        stored_frames: Count | None = None,
        mask_padding: bool = False,
        modality: Spectrogram | None = None,
        skip_bad_files: bool = False,
        group_by: str | None = None,
        part: str = "train",
    ) -> None:
        modality = modality or LogMel()
        samples = frames * modality.hop if samples is None else samples
        if stored is None:
            stored = samples if stored_frames is None else stored_frames * modality.hop
        if samples < modality.window:
            raise FlowportError(f"a clip of {samples} samples is shorter than the window of {modality.window}")
        if samples > stored:
            raise FlowportError(f"an audio folder needs samples ≤ stored, not samples={samples}, stored={stored}")
        held = _held(path, SoundFiles(modality.rate, stored), skip_bad_files, group_by)
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


def rate_of_files(path: str) -> int | None:
    """The sample rate of most recordings below a folder, Hz; None where there are none.

    Args:
        path: The folder.

    Raises:
        FlowportError: When the folder is missing.
    """
    listing = listed(path, SoundFiles.suffixes)
    return common_rate([listing.folder / name for name in listing.names])


@final
class CloudFolder(Stored):
    """The point clouds and meshes below a folder (``CloudFiles``), centred and scaled.

    Each cloud is centred and scaled so that the mean square of its coordinates is 1. Files in two or more sub-folders
    have the sub-folder as class. 80, 10 and 10 per cent of the files are train, validation and test; equal names of two
    folders lie in the same split.

    Args:
        path: The folder.
        points: Points of an encoded cloud.
        stored: Points stored of each file, of which training draws new ``points`` each time.
        rotate: Whether training rotates each cloud at random.
        key: Name of the points in .npz files that hold several arrays.
        skip_bad_files: Whether files that cannot be read are left out with a warning.
        group_by: Regular expression searched in file names; files of one folder and match lie in one split.
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
        key: str | None = None,
        skip_bad_files: bool = False,
        group_by: str | None = None,
        part: str = "train",
    ) -> None:
        if not 1 <= points <= stored:
            raise FlowportError(f"a cloud folder needs 1 ≤ points ≤ stored, not points={points}, stored={stored}")
        held = _held(path, CloudFiles(stored, key), skip_bad_files, group_by)
        super().__init__(**held, modality=Cloud(points, rotate), part=part)
