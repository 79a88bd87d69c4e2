"""Files of recordings: any rate and number of channels, as mono pieces of one length at one rate."""

from math import gcd
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import Tensor

from flowport.distribution.files import Files, MissingPackage, Reading
from flowport.errors import Count

SLOWEST, FASTEST = 1000, 768_000
"""Sample rates of recordings that are read, Hz."""
PADDING = -32768
"""Value that fills a piece behind the end of its recording; decoded samples are at least −32767."""
CANCELLED = 0.1
"""Level of the mean of the channels, as a share of the channels' own, below which they cancel."""
LOWER = "have a lower sample rate than"
OPPOSITE = "have channels that are opposite in phase and cancel in their mean: the first channel is used"


class SoundFiles(Files):
    """Recordings as mono waves at one rate, (k, stored) int16: pieces of ``stored`` samples, the last one padded.

    Channels are averaged; where they cancel, because they are opposite in phase, the first one is used, which is said.
    Where ``stored`` is None, the whole recording is one piece.

    Args:
        rate: Sample rate of the waves, Hz.
        stored: Samples of a piece; None for the whole recording.
    """

    kind: ClassVar[str] = "recordings"
    suffixes = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
    unread: ClassVar[dict[str, str]] = dict.fromkeys(
        (".m4a", ".aac", ".wma", ".mp4", ".opus", ".g722", ".amr", ".gsm"), "convert them to wav first (ffmpeg does)"
    )
    packages: ClassVar[dict[str, str]] = {"soundfile": "soundfile", "scipy": "scipy"}
    plain = ".wav"
    rewritten: ClassVar[dict[str, str]] = {".mp3": ".wav", ".ogg": ".wav", ".aif": ".wav", ".aiff": ".wav"}

    def __init__(self, rate: Count = 8000, stored: Count | None = None) -> None:
        self.rate, self.stored = rate, stored

    def options(self) -> dict[str, Any]:
        return {"rate": self.rate, "stored": self.stored}

    def read(self, path: Path) -> Reading:
        wave, own = _soundfile().read(path, dtype="float32", always_2d=True)
        if len(wave) == 0:
            raise ValueError("it is empty")
        if not np.isfinite(wave).all():
            raise ValueError("it holds NaN or infinite values")
        if not SLOWEST <= own <= FASTEST:
            raise ValueError(f"its sample rate is {own} Hz; {SLOWEST} to {FASTEST} Hz are understood")
        mono, note = wave.mean(1), ""
        level = float(np.sqrt(np.square(wave).mean()))
        if wave.shape[1] > 1 and float(np.sqrt(np.square(mono).mean())) < CANCELLED * level:
            mono, note = wave[:, 0], OPPOSITE
        if own < self.rate:
            note = "; ".join(
                [*([note] if note else []), f"{LOWER} {self.rate} Hz: they hold nothing above half of their own"]
            )
        if own != self.rate:
            shared = gcd(self.rate, own)
            mono = resample_poly(mono, self.rate // shared, own // shared)
        return Reading(self._cut(np.rint(32767 * mono.clip(-1, 1)).astype(np.int16)), note)

    def _cut(self, wave: NDArray[Any]) -> NDArray[Any]:
        stored = self.stored or len(wave)
        pieces = np.full((-(-len(wave) // stored), stored), PADDING, dtype=np.int16)
        pieces.reshape(-1)[: len(wave)] = wave
        return pieces

    def write(self, raw: Tensor, path: Path, suffix: str, reading: Reading) -> None:
        kind = "FLAC" if suffix == ".flac" else "WAV"
        _soundfile().write(path, raw.cpu().numpy(), self.rate, subtype="PCM_16", format=kind)


def _soundfile() -> Any:
    """The package that reads recordings, which nothing else needs."""
    try:
        import soundfile
    except (ModuleNotFoundError, OSError):  # OSError: its library libsndfile is not there
        raise MissingPackage("recordings need the package soundfile and libsndfile: pip install soundfile") from None
    return soundfile


def common_rate(files: list[Path]) -> int | None:
    """The sample rate of most recordings, Hz; None where none can be read.

    Args:
        files: Recordings, of which evenly spaced ones are looked at.
    """
    found: dict[int, int] = {}
    for path in files[:: max(1, len(files) // 64)]:
        try:
            rate = int(_soundfile().info(str(path)).samplerate)
        except (RuntimeError, OSError, MissingPackage):  # unreadable files are named when they are decoded
            continue
        if SLOWEST <= rate <= FASTEST:
            found[rate] = found.get(rate, 0) + 1
    return max(found, key=lambda rate: (found[rate], rate)) if found else None
