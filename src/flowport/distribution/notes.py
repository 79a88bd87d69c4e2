"""Notes of a synthetic instrument: two timbres over one score are pairs whose truth is known."""

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
def _recorded(instrument: type[Instrument], score: int, train: int) -> tuple[Tensor, Tensor]:
    """(raw (N, SAMPLES) int16, octaves (N, 1)) of the training notes of a score and the held-out notes of all."""
    scores = [NoteSequence.written(train, Randomness(score, 0, "/train"))]
    scores += [NoteSequence.written(n, Randomness(0, 0, f"/{part}")) for part, n in HELD_OUT.items()]
    waves = [
        instrument().play(
            notes[k : k + CHUNK], RATE, SAMPLES, Randomness(score, part, f"/{instrument.__name__}").generator("play", k)
        )
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
    """``train`` training notes, 100 for validation, 400 for the test; 1.024 s at 8 kHz, int16.

    instrument: Flute(), Brass() or your own without options. score: which training notes are played; two instruments
    with one score are pairs, with different scores they share no training note. The held-out notes are those of every
    score, so a translation of a test note has a true partner. label: octaves above 440 Hz, (n, 1).
    Made when needed (about 2 s an instrument), the same on every run. Raises FlowportError for fewer than 10 notes.
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
        raw, octaves = _recorded(type(instrument), score, train)
        self.instrument, self.score = instrument, score
        name = type(instrument).__name__.lower()
        super().__init__(name, raw, octaves, modality or LogMel(), _splits(train), part)

    def corresponds(self, other: Distribution) -> bool:
        """Whether item k of both is the same note."""
        if not isinstance(other, Notes):
            return False
        assert self.labels is not None and other.labels is not None
        return torch.equal(self.labels[self.index].cpu(), other.labels[other.index].cpu())

    def classifier_dataset(self) -> Stored:
        """Which instrument is it? The orchestra's notes of score 0, so that one classifier serves all, by
        instrument."""
        train = len(self.splits["train"])
        takes = [_recorded(type(player), 0, train)[0] for player in ORCHESTRA]
        total = len(takes[0])
        labels = torch.arange(len(takes)).repeat_interleave(total)
        splits = {
            part: torch.cat([rows.cpu() + k * total for k in range(len(takes))]) for part, rows in self.splits.items()
        }
        return Stored("timbre", torch.cat(takes), labels, self.modality, splits, self.part, classes=len(takes))
