"""The TensorBoard record of a run: charts that hold a metric and its references, its choices, config and results."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from flowport.errors import Amount
from flowport.training.logger.base import OF_A_STEP, UNCHARTED, RunLogger, of_the_end

REFERENCES = ("floor", "untranslated", "retrieved", "ceiling", "chance")
"""Suffixes of numbers that a metric is read against."""


def charts(numbers: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The numbers as they are charted: reference -> tag -> value, the metrics themselves under the empty reference.

    ``val/w2_floor`` becomes val/w2 of the reference floor, since TensorBoard draws one tag of several runs in one
    chart. Numbers of points (``_n``) are not charted.

    Args:
        numbers: Values by name.
    """
    found: dict[str, dict[str, Any]] = {"": {}}
    for name, value in numbers.items():
        base, _, last = name.rpartition("_")
        counts = last == "n" and name.startswith(("val/", "test/"))
        if last in REFERENCES and base in numbers:
            found.setdefault(last, {})[base] = value
        elif not counts and name not in UNCHARTED:
            found[""][name] = value
    return found


def as_table(numbers: Mapping[str, Any]) -> str:
    """The numbers as a Markdown table: a row of a metric holds its references and its number of points.

    Args:
        numbers: Values by name.
    """
    beside = ("floor", "untranslated", "retrieved", "n")
    lines = ["| number | value | " + " | ".join(beside) + " |", "|---" * (2 + len(beside)) + "|"]
    for name, value in numbers.items():
        base, _, last = name.rpartition("_")
        if last in beside and base in numbers:
            continue
        cells = [value, *(numbers.get(f"{name}_{each}", "") for each in beside)]
        lines.append(f"| {name} | " + " | ".join(f"{v:.5g}" if isinstance(v, float) else str(v) for v in cells) + " |")
    return "\n".join(lines)


def after_step(folder: Path, step: int) -> list[Any]:
    """The events of a record that belong to what was measured and drawn after a step, the last one of every name.

    Args:
        folder: Of the record.
        step: Number of optimiser steps.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*tfevents*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            if event.step == step:
                found |= {one.tag: event for one in event.summary.value if not one.tag.startswith(OF_A_STEP)}
    return list({id(event): event for event in found.values()}.values())


class TensorboardLogger(RunLogger, TensorBoardLogger):
    """TensorBoardLogger of a run that a resumed run continues.

    The references of a metric (floor, untranslated, …) are written as runs of these names in folders of the record, so
    that each is a curve in the chart of its metric. ``describe`` belongs to the beginning of a run, ``conclude`` to its
    end.

    Args:
        folder: Folder of the run; the record is its folder ``tensorboard``.
        done: Number of optimiser steps of the checkpoint that the run resumes from; None for a new run. What an earlier
            process recorded of later steps is discarded by TensorBoard.
    """

    def __init__(self, folder: Path, done: Amount | None = None) -> None:
        self.purge = 0 if done is None else done + 1
        self.kept = after_step(Path(folder) / "tensorboard", done) if done else []
        first = done or self.purge
        super().__init__(folder, name="", version="tensorboard", default_hp_metric=False, purge_step=first)
        self.beside: dict[str, SummaryWriter] = {}

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The writer, which begins with what stands of a validation after the last step of the checkpoint."""
        writer = super().experiment
        kept, self.kept = self.kept, []
        for event in kept:
            writer._get_file_writer().event_writer.add_event(event)
        return writer

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for reference, numbers in charts(metrics).items():
            if not reference:
                super().log_metrics(numbers, step)
                continue
            if reference not in self.beside:
                self.beside[reference] = SummaryWriter(Path(self.log_dir) / reference, purge_step=self.purge)
            for tag, value in numbers.items():
                self.beside[reference].add_scalar(tag, value, step)

    @rank_zero_only
    def describe(self, config: str, choices: dict[str, Any], metrics: Iterable[str]) -> None:
        """Record the config as text ``config``, and the choices as hyperparameters (tab HPARAMS).

        Args:
            config: The composed config, YAML.
            choices: Plain values by name.
            metrics: Names of the numbers of the end; without any, TensorBoard offers all that there are.
        """
        self.experiment.add_text("config", f"```yaml\n{config}\n```", 0)
        names = charts(dict.fromkeys(metrics, 0.0))[""]
        experiment, start, _ = hparams(choices, names)
        for summary in (experiment, start) if names else (start,):
            self.experiment._get_file_writer().add_summary(summary, 0)
        self.hparams.update(choices)

    @rank_zero_only
    def conclude(self, numbers: Mapping[str, Any], step: int) -> None:
        """Record the numbers of the test split and of a tuning's certificate as scalars, and all as text ``results``.

        Args:
            numbers: Values by name.
            step: Number of optimiser steps.
        """
        self.log_metrics(of_the_end(numbers), step)
        self.experiment.add_text("results", as_table(numbers), step)
        self.experiment._get_file_writer().add_summary(hparams({}, {})[2], step)
        self.save()

    @rank_zero_only
    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        self.experiment.add_image(name, pixels, step)

    @rank_zero_only
    def sound(self, name: str, wave: Tensor, rate: int, step: int) -> None:
        self.experiment.add_audio(name, wave.cpu() / 32768, step, rate)

    @rank_zero_only
    def clouds(self, name: str, points: Tensor, colours: Tensor, step: int) -> None:
        self.experiment.add_mesh(name, points, colours, global_step=step)

    @rank_zero_only
    def save(self) -> None:
        super().save()
        for writer in self.beside.values():
            writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
        if status != "success":  # otherwise the numbers of the test split are still to come
            self.close()

    @rank_zero_only
    def close(self) -> None:
        """Close the files of the record."""
        for writer in (self.experiment, *self.beside.values()):
            writer.close()
