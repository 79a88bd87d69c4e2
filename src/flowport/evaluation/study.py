"""The runs of a sweep compared item by item: means with intervals, paired differences, and what differs in words.

Seeds of one setting are averaged per item; items, by file, are resampled jointly for all settings.
``flowport.evaluation.study_page`` writes the page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from flowport.errors import FlowportError, printable
from flowport.evaluation.bootstrap import Estimate, estimate, paired_difference
from flowport.evaluation.items import UNTRANSLATED, ItemTable
from flowport.evaluation.learnt import TargetDistance, distance_of, has_learnt, means_of
from flowport.evaluation.showcase import Showcase
from flowport.evaluation.sweep_table import SEED, MeanAndError, distinct, varied_settings

IDLE = "untranslated"
LEVEL = 0.95
"""Probability of an interval, of differences between settings jointly."""


@dataclass(frozen=True)
class ItemNumber:
    """What a column of items.csv means.

    Args:
        title: Its name on the page.
        meaning: One sentence on what it is.
        better: ``"lower"``, ``"higher"``, or empty where neither is: the number has no best.
        content: Whether it says how much of an item's content is preserved.
    """

    title: str
    meaning: str
    better: str = "lower"
    content: bool = True

    @property
    def first(self) -> str:
        """What the setting is called that the others are compared with: the best one, or the one of the least mean."""
        return "best" if self.better else "least"


COLUMNS = {
    "class_kept": ItemNumber(
        "class kept",
        "share of items to which the classifier of the target assigns the class that they had before (1 is best); "
        "chance is the share where items and translations are paired at random, the ceiling is the accuracy of that "
        "classifier on real target items",
        "higher",
    ),
    "feature_distance": ItemNumber(
        "feature distance to the true partner",
        "root mean square difference between the translation and the target item of the same name, in the features of "
        "the classifier of the target (0 is best)",
    ),
    "distance": ItemNumber(
        "distance to the true partner",
        "root mean square difference between the translation and the target item of the same name, in the units of a "
        "point, for pictures from −1 (black) to 1 (white) (0 is best)",
    ),
    "rank": ItemNumber(
        "rank of the true partner",
        "place of the target item of the same name when all held-out target items are sorted by their distance from "
        "the translation (1 is best); chance is the middle place",
    ),
    "transport_cost": ItemNumber(
        "transport cost",
        "squared distance by which an item is moved, summed over its coordinates; less is kept of what moves far, but "
        "an item that does not move is no translation, so it is to be read beside the realism",
        better="",
        content=False,
    ),
    "cycle_error": ItemNumber(
        "cycle error",
        "root mean square difference between an item and its translation to the target and back, which is the error "
        "of the solver",
        better="",
        content=False,
    ),
}
"""The numbers of the page, in its order."""


@dataclass(frozen=True)
class StudyRun:
    """A finished run of a sweep with its items.

    Args:
        name: Its name in messages.
        settings: Its overrides, key to value.
        table: Its items.
        numbers: Its metrics.
        pictures: Existing pictures of its examples: ``"source"``, ``"translation"``, ``"partner"``, ``"target"``,
            ``"ways"``.
        show: Its sounds, clouds and points of the plane; None where it left none.
        choices: What its config chooses, by name.
    """

    name: str
    settings: dict[str, str]
    table: ItemTable
    numbers: dict[str, float]
    pictures: dict[str, Path] = field(default_factory=dict)
    show: Showcase | None = None
    choices: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """One number of all settings over the items that they share.

    Args:
        column: Its name in items.csv.
        values: Mean and interval of every setting.
        seeds: Means of the single runs of every setting, in the order of their seeds.
        best: The setting of the best mean; of a number that has no best, that of the least mean.
        from_best: Difference of every other setting to the best one, at a joint level.
        idle: Mean of the untranslated items; None where they have no such number.
        from_idle: Difference of every setting to the untranslated items.
        agreeing: Number of seeds in which the best setting is better than another one, and number of seeds in common.
        lines: Further values to compare with, by name: chance and ceiling.
        least: Least transport cost of the same points by any pairing, mean over the seeds of every setting.
    """

    column: str
    values: dict[str, Estimate]
    seeds: dict[str, list[float]]
    best: str
    from_best: dict[str, Estimate] = field(default_factory=dict)
    idle: Estimate | None = None
    from_idle: dict[str, Estimate] = field(default_factory=dict)
    agreeing: dict[str, tuple[int, int]] = field(default_factory=dict)
    lines: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)

    def beside_idle(self) -> str:
        """How the best setting differs from the untranslated items; empty where these have no such number."""
        gap = self.from_idle.get(self.best)
        if gap is None or self.idle is None or math.isnan(gap.se):
            return ""
        verb = "differs from these by more than the error" if gap.differs else "does not differ from these by more than"
        end = "" if gap.differs else " the error"
        return (
            f" Untranslated items have {interval(self.idle)}; {self.best} {verb}{end} ({interval(gap, signed=True)})."
        )

    def sentence(self) -> str:
        """What differs, with the intervals, or that nothing does."""
        number = COLUMNS[self.column]
        count = next(iter(self.values.values()))
        if math.isnan(count.se):
            return f"{number.title}: all items are of one file, which gives no error, so nothing can be said."
        if len(self.values) == 1:
            return f"{number.title}: {self.best} has {interval(self.values[self.best])}."
        sure = [name for name, gap in self.from_best.items() if gap.differs and self._in_every_seed(name)]
        gaps = {name: f"{name} ({interval(gap, signed=True)})" for name, gap in self.from_best.items()}
        unsure = ", ".join(gaps[name] + self._seeds_of(name) for name in gaps if name not in sure)
        better, mean = ", ".join(gaps[name] for name in sure), interval(self.values[self.best])
        if not sure:
            return (
                f"{number.title}: no setting is {number.first} by more than the error; {self.best} has the "
                f"{number.first} mean, {mean}, from which the others differ by: {unsure}."
            )
        claim = "is best" if number.better and not unsure else f"has the {number.first} mean"
        but = f", but not from {unsure}" if unsure else ""
        return (
            f"{number.title}: {self.best} {claim}, {mean}; by more than the error it differs from {better}{but}."
            + self._of_few_seeds()
        )

    def _of_few_seeds(self) -> str:
        """That one seed says nothing of another training; empty for several."""
        seeds = min((count for _, count in self.agreeing.values()), default=0)
        few = "Of one seed" if seeds else "Without a common seed"
        return f" {few}: the spread over trainings is unknown." if seeds < 2 else ""

    def _in_every_seed(self, name: str) -> bool:
        wins, seeds = self.agreeing.get(name, (0, 0))
        return wins == seeds

    def _seeds_of(self, name: str) -> str:
        wins, seeds = self.agreeing.get(name, (0, 0))
        first = COLUMNS[self.column].first
        return f" ({first} in {wins} of {seeds} seeds)" if self.from_best[name].differs and wins < seeds else ""


@dataclass(frozen=True)
class Study:
    """All comparisons of a sweep.

    Args:
        groups: The runs of every setting, by its name.
        comparisons: One per number, in the order of the page.
        items: Number of items that all runs share.
        notes: What was left out, and why.
    """

    groups: dict[str, list[StudyRun]]
    comparisons: list[Comparison]
    items: int
    notes: list[str]

    @property
    def unlearnt(self) -> dict[str, TargetDistance]:
        """The settings that have not learnt their target, see ``has_learnt``, and their distances, means over seeds."""
        means = {label: means_of([run.numbers for run in group]) for label, group in self.groups.items()}
        far = {label: distance_of(numbers) for label, numbers in means.items() if not has_learnt(numbers)}
        return {label: known for label, known in far.items() if known is not None}

    def marks(self, one: Comparison) -> bool:
        """Whether the setting of the best mean is marked: the number has a best, and the setting has learnt its target.

        Args:
            one: A comparison.
        """
        return bool(COLUMNS[one.column].better) and one.best not in self.unlearnt


def interval(value: Estimate, signed: bool = False) -> str:
    """A mean and its interval as text.

    Args:
        value: The estimate.
        signed: Whether the mean has its sign.
    """
    mean = f"{value.mean:+.3g}" if signed else f"{value.mean:.3g}"
    return mean + (" (no interval)" if math.isnan(value.low) else f" [{value.low:.3g}, {value.high:.3g}]")


def compared(runs: Sequence[StudyRun], notes: Sequence[str] = ()) -> Study:
    """The comparison of the settings of a sweep.

    Args:
        runs: Its runs, at least one.
        notes: What was left out before, and why.

    Raises:
        FlowportError: Where no item occurs in all runs.
    """
    groups, told = _grouped(runs), list(notes)
    shared = set(runs[0].table.names).intersection(*(run.table.names for run in runs))
    if not shared:
        raise FlowportError("the runs of this sweep have no held-out item in common: compare runs of the same data")
    most = max(len(run.table.names) for run in runs)
    if len(shared) < most:
        told.append(f"{len(shared)} of {most} items occur in every run; these alone are compared")
    names = [name for name in runs[0].table.names if name in shared]
    found = []
    for column in COLUMNS:
        have = [run for run in runs if column in run.table.numbers]
        if not have:
            continue
        lost = sorted({label for label, group in groups.items() if any(run not in have for run in group)})
        if lost:
            told.append(f"{COLUMNS[column].title} is not compared: {', '.join(lost)} has none")
        elif column == "rank" and len({run.numbers.get("test/item_rank_of") for run in runs}) > 1:
            told.append("the rank is not compared: it is among different numbers of target items")
        elif (one := _comparison(column, groups, names)) is not None:
            found.append(one)
    return Study(groups, found, len(names), told)


def _grouped(runs: Sequence[StudyRun]) -> dict[str, list[StudyRun]]:
    varied, groups = varied_settings([run.settings for run in runs]), dict[str, list[StudyRun]]()
    for run in runs:
        words = (f"{key.rpartition('.')[2]}={run.settings.get(key, 'default')}" for key in varied)
        groups.setdefault(printable(" ".join(words)) or "this setting", []).append(run)
    return groups


def column_of(study: Study, label: str, column: str) -> Tensor:
    """The values of a column of a setting, seeds averaged, over the items of its first run, (n,) float64.

    Args:
        study: The study.
        label: The setting.
        column: Its name in items.csv.
    """
    group = study.groups[label]
    shared = set(group[0].table.names).intersection(*(run.table.names for run in group))
    names = [name for name in group[0].table.names if name in shared]
    return torch.stack([_column(run, column, names) for run in group]).mean(0)


def _column(run: StudyRun, column: str, names: list[str]) -> Tensor:
    place = {name: k for k, name in enumerate(run.table.names)}
    return run.table.numbers[column][torch.tensor([place[name] for name in names])]


def _comparison(column: str, groups: dict[str, list[StudyRun]], names: list[str]) -> Comparison | None:
    """A number over the items that have it in every run; None where there are none."""
    single = {label: torch.stack([_column(run, column, names) for run in group]) for label, group in groups.items()}
    idle_name = f"{column}{UNTRANSLATED}"
    every = [run for group in groups.values() for run in group]
    idle = None
    if all(idle_name in run.table.numbers for run in every):
        idle = torch.stack([_column(run, idle_name, names) for run in every]).mean(0)
    known = torch.stack([values.isfinite().all(0) for values in single.values()]).all(0)
    known = known if idle is None else known & idle.isfinite()
    if not bool(known.any()):
        return None
    kept = [name for name, is_known in zip(names, known.tolist(), strict=True) if is_known]
    files = ItemTable(kept).groups
    single = {label: values[:, known] for label, values in single.items()}
    mean = {label: values.mean(0) for label, values in single.items()}
    sign = -1 if COLUMNS[column].better == "higher" else 1
    best = min(mean, key=lambda label: sign * float(mean[label].mean()))
    pairs = len(mean) * (len(mean) - 1) / 2
    level = 1 - (1 - LEVEL) / max(pairs, 1)
    others = [label for label in mean if label != best]
    rest = None if idle is None else idle[known]
    return Comparison(
        column,
        {label: estimate(values, files, LEVEL) for label, values in mean.items()},
        {label: values.mean(1).tolist() for label, values in single.items()},
        best,
        {label: paired_difference(mean[label], mean[best], files, level) for label in others},
        None if rest is None else estimate(rest, files, LEVEL),
        {} if rest is None else {label: paired_difference(v, rest, files, LEVEL) for label, v in mean.items()},
        {label: _agreement(groups, single, best, label, sign) for label in others},
        _lines(column, every),
        _least(groups) if column == "transport_cost" else {},
    )


def _agreement(
    groups: dict[str, list[StudyRun]], single: dict[str, Tensor], best: str, other: str, sign: int
) -> tuple[int, int]:
    """In how many of the common seeds the best setting is better than another one."""
    means = [
        {
            run.settings.get(SEED, "0"): sign * float(values.mean())
            for run, values in zip(groups[g], single[g], strict=True)
        }
        for g in (best, other)
    ]
    seeds = means[0].keys() & means[1].keys()
    return sum(means[0][seed] < means[1][seed] for seed in seeds), len(seeds)


def _lines(column: str, runs: list[StudyRun]) -> dict[str, float]:
    """Chance and ceiling of a number, means over the runs."""
    names = {
        "class_kept": {"chance": "class_preservation_chance", "ceiling": "class_preservation_ceiling"},
        "rank": {"chance": "item_rank_chance"},
    }.get(column, {})
    found = {
        line: [r.numbers[f"test/{key}"] for r in runs if f"test/{key}" in r.numbers] for line, key in names.items()
    }
    return {line: sum(values) / len(values) for line, values in found.items() if values}


def _least(groups: dict[str, list[StudyRun]]) -> dict[str, float]:
    """The least transport cost of every setting, where all its runs have measured it."""
    key = "test/transport_cost_least"
    have = {label: [run.numbers[key] for run in group if key in run.numbers] for label, group in groups.items()}
    return {label: sum(values) / len(values) for label, values in have.items() if values}


def realism(study: Study) -> tuple[list[str], list[list[str]]]:
    """Distances of translations and of real points to the held-out target, mean ± standard error over seeds.

    Args:
        study: The study.

    Returns:
        The head of a table and its rows; no rows where no metric has a floor.
    """
    every = [run for group in study.groups.values() for run in group]
    names = [n for n in every[0].numbers if n.startswith("test/") and f"{n}_floor" in every[0].numbers]
    names = [n for n in names if all(f"{n}_floor" in run.numbers and n in run.numbers for run in every)]
    rows = [
        [label, *(str(MeanAndError.of([run.numbers[n] for run in group])) for n in names)]
        for label, group in study.groups.items()
    ]
    for reference, title in (("floor", "floor (real target items)"), (IDLE, IDLE)):
        cells = [[run.numbers[f"{n}_{reference}"] for run in every if f"{n}_{reference}" in run.numbers] for n in names]
        if any(cells):
            rows.append([title, *(str(MeanAndError.of(distinct(values))) if values else "" for values in cells)])
    return ["setting", *(n.removeprefix("test/") for n in names)], rows if names else []
