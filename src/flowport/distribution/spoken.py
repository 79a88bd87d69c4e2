"""Spoken words of a synthetic voice: two voices over one list of words, rates and pitches are pairs."""

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

from flowport.distribution import espeak, folder
from flowport.distribution.base import Distribution, Stored
from flowport.distribution.parts import divide
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


def _said(voice: str, words: Job) -> NDArray:
    """(N, SAMPLES) int16, by one fresh process, so that the same job gives the same bits."""
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
    for k in range(0, len(words), CHUNK):  # rows of one length, so that many are resampled at once
        n = min(CHUNK, len(words) - k)
        rows = np.zeros((n, int(np.diff(bounds[k : k + n + 1]).max())), dtype=np.float32)
        behind = np.arange(rows.shape[1]) < np.diff(bounds[k : k + n + 1])[:, None]
        rows[behind] = waves[bounds[k] : bounds[k + n]]
        short = resample_poly(rows, RATE // shared, answer["rate"] // shared, axis=1)[:, :SAMPLES]
        clips[k : k + n, : short.shape[1]] = np.rint(short).clip(-32767, 32767)
    return clips


def _recorded(voice: str, words: Job) -> Tensor:
    """The same, kept on disk by what was asked of which version."""
    _loader()
    options = json.dumps([folder.VERSION, metadata.version(PACKAGE), voice, words, RATE, SAMPLES])
    cached = folder.CACHE / f"{blake2b(options.encode(), digest_size=8).hexdigest()}.safetensors"
    kept = folder.loaded(cached)
    if kept is not None:
        return kept[0]["items"]
    made = torch.from_numpy(_said(voice, words))
    folder.keep(cached, {"items": made}, {"spoken": voice})
    return made


@final
class Spoken(Stored):
    """``words`` said by eSpeak NG's ``voice`` at every one of ``rates`` (words a minute) and ``pitches`` (0 to 99);
    1.024 s at 8 kHz, int16. label: which word, (n,) classes.

    All words of one rate and pitch lie in one split (80, 10 and 10 per cent of these settings), so no setting that is
    heard in training is held out. half: 0 or 1, training has every other setting only, so that two voices with
    different halves share none; the held-out items are those of every half and correspond item by item.
    Said when needed by one process (seconds), kept in data/cache. Raises FlowportError where the extra ``speech`` is
    missing,
    for a voice that eSpeak does not know, and for a word that lasts longer than 1.024 s.
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
        said, settings = tuple(words), list(product(rates, pitches))
        if len(set(said)) < max(2, len(said)) or len(set(settings)) < max(10, len(settings)):
            raise FlowportError(
                f"spoken needs at least 2 different words and 10 different settings, not {len(said)} words "
                f"and {len(settings)} settings"
            )
        if not all(80 <= rate <= 450 and 0 <= pitch <= 99 for rate, pitch in settings):
            raise FlowportError("spoken.rates must lie in 80 … 450 words a minute and spoken.pitches in 0 … 99")
        if half not in (None, 0, 1):
            raise FlowportError(f"spoken.half is {half}; it must be 0, 1 or null for all")
        self.job: Job = [(word, rate, pitch) for rate, pitch in settings for word in said]
        setting = torch.arange(len(settings)).repeat_interleave(len(said))
        tenth = max(1, len(settings) // 10)
        splits = divide(len(self.job), tenth, tenth, None, setting)
        if half is not None:
            trained = setting[splits["train"]]
            mine = trained.unique()[half::2]
            splits["train"] = splits["train"][torch.isin(trained, mine)]
        labels = torch.arange(len(said)).repeat(len(settings))
        super().__init__("spoken", _recorded(voice, self.job), labels, modality or LogMel(), splits, part, len(said))

    def corresponds(self, other: Distribution) -> bool:
        """Whether item k of both is the same word at the same rate and pitch."""
        if not isinstance(other, Spoken) or self.part != other.part or self.job != other.job:
            return False
        return torch.equal(self.index.cpu(), other.index.cpu())
