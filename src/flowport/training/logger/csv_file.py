"""A logger that needs no program to be read: numbers and hyperparameters as csv."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from flowport.cache import write_atomically
from flowport.errors import Amount, is_number
from flowport.training.logger.base import OF_A_STEP, UNCHARTED, RunLogger

HEAD = ["step", "name", "value"]


class CsvLogger(RunLogger):
    """Logger that appends one row per number, ``step,name,value``, to csv/numbers.csv in the run's folder.

    Hyperparameters are in csv/choices.csv, ``name,value``. Rows of later steps than those of the checkpoint that a run
    resumes from are removed, and so is a row that a killed process left half-written. Pictures and sounds stand in the
    run's folder.

    Args:
        folder: Folder of the run.
        done: Number of optimiser steps of the checkpoint that the run resumes from; None for a new run.
    """

    def __init__(self, folder: Path, done: Amount | None = None) -> None:
        super().__init__()
        self.folder, self.done, self.ready = Path(folder) / "csv", done, False

    @property
    def name(self) -> str:
        """The name of its folder."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty: a run has one record."""
        return ""

    @property
    def file(self) -> Path:
        """The file of the numbers."""
        return self.folder / "numbers.csv"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._prepare()
        with self.file.open("a", newline="") as file:
            file.write(_lines([step or 0, n, repr(float(v))] for n, v in metrics.items() if n not in UNCHARTED))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self._prepare()
        values = vars(params) if isinstance(params, Namespace) else params
        text = _lines([["name", "value"], *([name, value] for name, value in values.items())])
        write_atomically(self.folder / "choices.csv", lambda place: place.write_text(text, newline=""))

    def _prepare(self) -> None:
        """Begin the file, or drop the rows that a resumed run writes again."""
        if self.ready:
            return
        self.ready = True
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = []
        if self.done is not None and self.file.is_file():
            rows = csv.reader(io.StringIO(self.file.read_text(errors="replace"), newline=""))
            kept = [row for row in rows if len(row) == 3 and row[0].isdigit() and is_number(row[2])]
            kept = [row for row in kept if int(row[0]) + row[1].startswith(OF_A_STEP) <= self.done]
        text = _lines([HEAD, *kept])
        write_atomically(self.file, lambda place: place.write_text(text, newline=""))


def _lines(rows: Any) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
