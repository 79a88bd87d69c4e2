"""Notes of synthetic instruments; two instruments with the same score are paired data."""

from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from flowport.distribution.base import Distribution, Stored
from flowport.distribution.instrument import Brass, Flute, Instrument, NoteSequence
from flowport.errors import FlowportError
from flowport.modality import LogMel, Modality
from flowport.randomness import Randomness

RATE, SAMPLES, CHUNK = 8000, 8192, 250
ORCHESTRA: tuple[Instrument, ...] = (Flute(), Brass())
HELD_OUT = {"validation": 100, "test": 400}


@lru_cache(maxsize=8)
def _recorded(instrument: Instrument, score: int, train: int) -> tuple[Tensor, Tensor]:
    """Waves (N, SAMPLES) int16 and octaves (N, 1) of a score's training notes and the common held-out notes."""
    scores = [NoteSequence.written(train, Randomness(score, 0, "/train"))]
    scores += [NoteSequence.written(n, Randomness(0, 0, f"/{part}")) for part, n in HELD_OUT.items()]
    name = type(instrument).__name__
    waves = [
        instrument.play(notes[k : k + CHUNK], RATE, SAMPLES, Randomness(score, part, f"/{name}").generator("play", k))
        for part, notes in enumerate(scores)
        for k in range(0, len(notes), CHUNK)
    ]
    pitch = torch.cat([notes.pitch for notes in scores])
    return torch.cat(waves), (pitch / 440).log2().float()[:, None]


def _splits(train: int) -> dict[str, Tensor]:
    bounds, at = {"train": torch.arange(train)}, train
    for part, n in HELD_OUT.items():
        bounds[part] = torch.arange(at, at + n)
        at += n
    return bounds


@final
class Notes(Stored):
    """Notes of one synthetic instrument, 1.024 s at 8 kHz, int16, with the pitch as label.

    The label is the pitch in octaves above 440 Hz, (n, 1). 100 validation and 400 test notes are the same for every
    score, so a translated test note has a true partner. Waves are synthesised on construction, about 2 s per
    instrument, and are the same in every run.

    Args:
        instrument: ``Flute()``, ``Brass()`` or another instrument; instruments are compared by their options.
        score: Seed of the training notes; two instruments with one score are paired, with different scores they share
            no training note.
        train: Number of training notes.
        modality: Encodes the waves; None for ``LogMel``.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        FlowportError: When there are fewer than 10 training notes, or the split is unknown.
    """

    label_is_pitch = True

    def __init__(
        self,
        instrument: Instrument,
        score: int = 0,
        train: int = 2000,
        modality: Modality | None = None,
        part: str = "train",
    ) -> None:
        if train < 10:
            raise FlowportError(f"notes.train is {train}; at least 10 training notes are needed")
        raw, octaves = _recorded(instrument, score, train)
        self.instrument, self.score = instrument, score
        name = type(instrument).__name__.lower()
        super().__init__(name, raw, octaves, modality or LogMel(), _splits(train), part)

    def corresponds(self, other: Distribution) -> bool:
        """Whether item k of both splits is the same note, which is decided by its pitch.

        Args:
            other: The distribution to compare with.
        """
        if not isinstance(other, Notes):
            return False
        assert self.labels is not None and other.labels is not None
        return torch.equal(self.labels[self.index].cpu(), other.labels[other.index].cpu())

    def classifier_dataset(self) -> Stored:
        """The notes of score 0 of all instruments in ``ORCHESTRA``, labelled by instrument.

        It does not depend on this distribution's instrument or score, so that one classifier is shared by all.
        """
        train = len(self.splits["train"])
        takes = [_recorded(player, 0, train)[0] for player in ORCHESTRA]
        total = len(takes[0])
        labels = torch.arange(len(takes)).repeat_interleave(total)
        splits = {
            part: torch.cat([rows.cpu() + k * total for k in range(len(takes))]) for part, rows in self.splits.items()
        }
        return Stored("timbre", torch.cat(takes), labels, self.modality, splits, self.part, classes=len(takes))
