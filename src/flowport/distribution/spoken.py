"""Spoken words of synthetic voices; two voices with the same words, rates and pitches are paired data."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from importlib import import_module, metadata
from itertools import product
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import Tensor

from flowport.cache import read_tensors, write_tensors
from flowport.distribution import espeak, folder
from flowport.distribution.base import Distribution, Stored
from flowport.distribution.parts import stratified_split
from flowport.errors import FlowportError
from flowport.modality import LogMel, Modality

RATE, SAMPLES, CHUNK = 8000, 8192, 256
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATES, PITCHES = tuple(range(90, 211, 8)), tuple(range(15, 91, 5))
PACKAGE = "espeakng_loader"
Job = list[tuple[str, int, int]]


def _loader() -> Any:
    try:
        return import_module(PACKAGE)
    except ModuleNotFoundError:
        raise FlowportError(
            "distribution=voice_low and voice_high speak by eSpeak NG (GPL), which is not installed: "
            "pip install 'flowport[speech]'"
        ) from None


def _synthesised(voice: str, words: Job) -> NDArray[Any]:
    """Waves (N, SAMPLES) int16, made by one new process so that equal jobs give equal bits."""
    loader = _loader()
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "waves"
        command = [sys.executable, "-I", espeak.__file__, loader.get_library_path(), loader.get_data_path(), str(out)]
        done = subprocess.run(
            command, input=json.dumps({"voice": voice, "words": words}), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise FlowportError(
                f"eSpeak NG cannot speak here: {(done.stderr.strip() or 'it crashed').splitlines()[-1]}"
            )
        answer: dict[str, Any] = json.loads(done.stdout)
        if "refused" in answer:
            raise FlowportError(
                f"spoken.voice is {voice!r}, which eSpeak NG does not know: en-us and en-us+f3 are voices"
            )
        waves, bounds = np.fromfile(out, dtype=np.int16), np.cumsum([0, *answer["lengths"]])
    longest = int(np.argmax(answer["lengths"]))
    seconds = answer["lengths"][longest] / answer["rate"]
    if seconds > SAMPLES / RATE:
        word, rate, _ = words[longest]
        raise FlowportError(
            f"spoken.rates holds {rate}, at which {word!r} lasts {seconds:.2f} s; {SAMPLES / RATE} s are kept"
        )
    shared = int(np.gcd(RATE, answer["rate"]))
    clips = np.zeros((len(words), SAMPLES), dtype=np.int16)
    for k in range(0, len(words), CHUNK):  # rows of one length are resampled together
        n = min(CHUNK, len(words) - k)
        rows = np.zeros((n, int(np.diff(bounds[k : k + n + 1]).max())), dtype=np.float32)
        valid = np.arange(rows.shape[1]) < np.diff(bounds[k : k + n + 1])[:, None]
        rows[valid] = waves[bounds[k] : bounds[k + n]]
        short = resample_poly(rows, RATE // shared, answer["rate"] // shared, axis=1)[:, :SAMPLES]
        clips[k : k + n, : short.shape[1]] = np.rint(short).clip(-32767, 32767)
    return clips


def _recorded(voice: str, words: Job) -> Tensor:
    """The same waves as a tensor, cached on disk by the job and the versions."""
    _loader()
    options = json.dumps([folder.VERSION, metadata.version(PACKAGE), voice, words, RATE, SAMPLES])
    cached = folder.CACHE / f"{blake2b(options.encode(), digest_size=8).hexdigest()}.safetensors"
    stored = read_tensors(cached)
    if stored is not None:
        return stored[0]["items"]
    waves = torch.from_numpy(_synthesised(voice, words))
    write_tensors(cached, {"items": waves}, {"spoken": voice}, checksum=True)
    return waves


@final
class Spoken(Stored):
    """Words spoken by a voice of eSpeak NG at all combinations of rates and pitches, 1.024 s at 8 kHz, int16.

    The label is the index of the word. A setting is one rate with one pitch; 80, 10 and 10 per cent of the settings are
    train, validation and test, with all words of a setting in one split. The waves are synthesised on first use, in
    seconds, and cached on disk.

    Args:
        voice: Name of a voice of eSpeak NG, such as en-us or en-us+f3.
        words: At least two different words, the classes.
        rates: Rates in words per minute, 80 to 450.
        pitches: Pitches on eSpeak's scale, 0 to 99.
        half: 0 or 1 for every other training setting only, so that two voices with different halves share no training
            setting; their held-out items are the same and correspond. None for all training settings.
        modality: Encodes the waves; None for ``LogMel``.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When the extra ``speech`` is not installed, eSpeak has no such voice, a word lasts longer than
            1.024 s, words or settings are repeated or too few, or an option is out of range.
    """

    def __init__(
        self,
        voice: str,
        words: Sequence[str] = DIGITS,
        rates: Sequence[int] = RATES,
        pitches: Sequence[int] = PITCHES,
        half: int | None = None,
        modality: Modality | None = None,
        part: str = "train",
    ) -> None:
        vocabulary, settings = tuple(words), list(product(rates, pitches))
        if len(set(vocabulary)) < max(2, len(vocabulary)) or len(set(settings)) < max(10, len(settings)):
            raise FlowportError(
                f"spoken needs at least 2 different words and 10 different settings, not {len(vocabulary)} words "
                f"and {len(settings)} settings"
            )
        if not all(80 <= rate <= 450 and 0 <= pitch <= 99 for rate, pitch in settings):
            raise FlowportError("spoken.rates must lie in 80 … 450 words a minute and spoken.pitches in 0 … 99")
        if half not in (None, 0, 1):
            raise FlowportError(f"spoken.half is {half}; it must be 0, 1 or null for all")
        self.job: Job = [(word, rate, pitch) for rate, pitch in settings for word in vocabulary]
        setting = torch.arange(len(settings)).repeat_interleave(len(vocabulary))
        tenth = max(1, len(settings) // 10)
        splits = stratified_split(len(self.job), tenth, tenth, None, setting)
        if half is not None:
            trained = setting[splits["train"]]
            selected = trained.unique()[half::2]
            splits["train"] = splits["train"][torch.isin(trained, selected)]
        labels = torch.arange(len(vocabulary)).repeat(len(settings))
        raw = _recorded(voice, self.job)
        super().__init__("spoken", raw, labels, modality or LogMel(), splits, part, len(vocabulary))

    def corresponds(self, other: Distribution) -> bool:
        """Whether both splits have the same words at the same rates and pitches, in the same order.

        Args:
            other: The distribution to compare with.
        """
        if not isinstance(other, Spoken) or self.part != other.part or self.job != other.job:
            return False
        return torch.equal(self.index.cpu(), other.index.cpu())
