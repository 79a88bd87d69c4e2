"""The contract of a logger that a run writes to."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from torch import Tensor

from flowport.errors import Checked

UNCHARTED = ("epoch",)
"""Numbers that Lightning adds and that say nothing here: the whole training is one epoch."""
OF_A_STEP = ("train/", "tune/", "coupling/")
"""Beginnings of the names of numbers that Lightning records at the count of the steps before their own.

The numbers of step n + 1 stand at n, as do those of a validation after n steps: of a record that goes on after n steps,
those of the next step, which a killed process may have written, are dropped, and those of the validation are kept.
"""

OF_THE_END = ("test/", "tune/", "certificate/", "sampled/", "boosting/")
"""Beginnings of the names of numbers that are charted at the end of a run, where they are measured."""


def of_the_end(numbers: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that are charted at the end of a run; texts among them are not.

    Args:
        numbers: Values by name.
    """
    found = {name: value for name, value in numbers.items() if name.startswith(OF_THE_END)}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


class RunLogger(Checked, Logger):
    """A Lightning logger that also takes what a run shows beside its numbers.

    To add a member: subclass this class and a Lightning logger in a new module of this folder, export it in
    ``__init__.py`` and add ``configs/logger/<name>.yaml`` with ``_target_`` and ``_partial_: true``; the run calls it
    with its folder and the number of steps of the checkpoint that it resumes from (None for a new run). A logger keeps
    to itself what it cannot show. On processes of other ranks than 0 it writes nothing.
    """

    def describe(self, config: str, choices: dict[str, Any], metrics: Iterable[str]) -> None:
        """Record what a new run begins with; by default its choices, as hyperparameters.

        Args:
            config: The composed config, YAML.
            choices: Plain values by name.
            metrics: Names of the numbers of the end.
        """
        self.log_hyperparams(choices)

    def conclude(self, numbers: Mapping[str, Any], step: int) -> None:
        """Record the numbers of the end; by default those of the test split and of a tuning's certificate.

        Args:
            numbers: Values by name.
            step: Number of optimiser steps.
        """
        self.log_metrics(of_the_end(numbers), step)
        self.save()

    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        """Record a picture.

        Args:
            name: Its name.
            pixels: The picture, (3, H, W) uint8.
            step: Number of optimiser steps.
        """

    def sound(self, name: str, wave: Tensor, rate: int, step: int) -> None:
        """Record a sound.

        Args:
            name: Its name.
            wave: The waveform, (T,) int16.
            rate: Samples per second, Hz.
            step: Number of optimiser steps.
        """

    def clouds(self, name: str, points: Tensor, colours: Tensor, step: int) -> None:
        """Record point clouds.

        Args:
            name: Their name.
            points: Coordinates, (n, N, 3).
            colours: RGB colours, (n, N, 3) uint8.
            step: Number of optimiser steps.
        """

    def close(self) -> None:
        """Finish the record, after the numbers of the end."""


def identifier(place: Path, done: int | None) -> str | None:
    """The identifier that a run has at a server, which a resumed run goes on with; None for a new run.

    Args:
        place: The file that holds it.
        done: Number of steps of the checkpoint that the run resumes from; None for a new run.
    """
    if done is None or place.is_symlink() or not place.is_file():
        return None
    text = place.read_text(errors="replace").strip()
    return text if text.isalnum() and len(text) <= 64 else None
