"""The runs of a sweep as one table: a row per setting, with mean ± standard error over seeds."""

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from html import escape
from pathlib import Path
from typing import Any

from flowport.errors import FlowportError, printable

SEED = "seed"
COLUMNS = 64
"""Largest number of settings and of metrics of a table."""
SIDES = ("source.", "target.", "distribution@", "pair.")
"""Beginnings of overrides that say of which data a run is."""
TARGET = ("pair.", "target.", "distribution@target")
"""Beginnings of overrides that choose what is reached, and in a sweep over pairs of domains from where."""
REFERENCES = ("untranslated", "retrieved", "floor")
"""Suffixes of the names of a metric's baselines."""
FINISHED = "finished"
NEITHER = (
    *("domain_*", "*_dimension", "*nna", "*diversity", "*steps", "*calls", "*path_energy", "*strength"),
    *("*transport_cost", "*cycle_error", "*_step", "term_*", "base_term_*"),
    *("*base_reward", "*tilted_reward", "kl_to_base", "elbo", "*strength_share", "share", "memory", "paths", "*temper"),
    *("*mean_gap", "gap", "before_gap"),  # below 0 by noise
)
"""Numbers that describe the data or the run, and those that are best at some value between."""
MORE = (
    *("*class_preservation", "*class_accuracy", "*class_kept", "*target_share", "*coverage", "*within_50", "*reward"),
    *("partner_class", "partner_mrr", "partner_top1", "effective*", "gain"),
)
"""Numbers of which more is better."""
LESS = (
    *("w2", "sliced_w2", "energy", "*mmd", "fd_*", "kid_*", "npe", "straightness*", "*chamfer", "lsd", "mcd"),
    *("*cents", "*cents_p90", "torus_fit", "*distance", "*rank", "*_error", "*kl", "kl_*", "*_kl_to_tilt", "loss"),
    *("nfe", "seconds", "step_ms", "*memory_mib", "pareto_k"),
)
"""Numbers of which less is better."""


@dataclass(frozen=True)
class Job:
    """A run of a sweep.

    Args:
        settings: Its overrides, key to value.
        numbers: Its metrics; none where it did not finish.
        translation: The picture of its translations, which need not exist.
        name: Of its folder.
        status: ``"finished"``, or what became of it.
        error: Why it did not finish.
        target: What is reached, as the run's config says, where its overrides do not.
    """

    settings: dict[str, str]
    numbers: dict[str, float]
    translation: Path
    name: str = ""
    status: str = FINISHED
    error: str = ""
    target: str = ""

    @property
    def words(self) -> str:
        """Its overrides as they are written, without the name of the sweep."""
        return printable(" ".join(f"{key}={value}" for key, value in self.settings.items() if key != "sweep"))

    @classmethod
    def of(cls, settings: dict[str, str], values: Mapping[str, Any], translation: Path, name: str = "") -> "Job":
        """A finished job with those of its values that are numbers.

        Args:
            settings: Its overrides, key to value.
            values: What its metrics.json holds.
            translation: The picture of its translations, which need not exist.
            name: Of its folder.
        """
        numbers = {
            name: float(value)
            for name, value in values.items()
            if (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max)
            or isinstance(value, float)
        }
        return cls(settings, numbers, translation, name)


@dataclass(frozen=True)
class MeanAndError:
    """Mean over n runs and its standard error s/√n (0 for one run).

    Args:
        mean: The mean.
        error: Its standard error.
        n: Number of runs.
    """

    mean: float
    error: float
    n: int

    @classmethod
    def of(cls, values: list[float]) -> "MeanAndError":
        """The mean of numbers and its standard error.

        Args:
            values: One number per run.
        """
        n = len(values)  # statistics sums exactly: equal numbers have no spread
        if n < 2 or not all(map(math.isfinite, values)):
            return cls(math.fsum(values) / n, 0.0, n)
        return cls(statistics.fmean(values), statistics.stdev(values) / math.sqrt(n), n)

    def __str__(self) -> str:
        if not math.isfinite(self.mean) or not math.isfinite(self.error):
            return f"{self.mean}"
        digits = 3 if self.error == 0 else max(0, min(6, 1 - math.floor(math.log10(self.error))))
        if self.error == 0 and self.mean != 0:
            digits = max(0, 2 - math.floor(math.log10(abs(self.mean))))
        return f"{self.mean:.{digits}f}" + (f" ± {self.error:.{digits}f}" if self.n > 1 else "")


@dataclass(frozen=True)
class SweepTable:
    """A table of the runs of a sweep.

    Args:
        settings: Names of the settings that vary.
        metrics: Names of the metrics, in the order of the columns.
        rows: Values of the settings and mean and error of each metric.
        best: Per metric, the settings whose mean is best of their target's or whose paired difference from that is
            within its error.
    """

    settings: list[str]
    metrics: list[str]
    rows: list[tuple[tuple[str, ...], dict[str, MeanAndError]]]
    best: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)

    def lines(self, mark: str = "") -> list[list[str]]:
        """Header and rows as text without control characters.

        Args:
            mark: Stands on both sides of the cells of ``best``.
        """
        head = [*self.settings, "runs", *(m.removeprefix("test/") for m in self.metrics)]
        body = [
            [*values, str(runs_of(cells)), *(self._cell(values, cells, m, mark) for m in self.metrics)]
            for values, cells in self.rows
        ]
        return [[printable(cell) for cell in line] for line in (head, *body)]

    def _cell(self, values: tuple[str, ...], cells: dict[str, MeanAndError], metric: str, mark: str) -> str:
        around = mark if values in self.best.get(metric, ()) else ""
        return f"{around}{cells[metric]}{around}" if metric in cells else ""

    def markdown(self) -> str:
        """The table as Markdown, in which no cell is markup; bold is ``best``."""
        text = as_markdown(self.lines("**"), len(self.settings))
        return text + (f"\n{MARKED}\n" if any(self.best.values()) else "")


MARKED = (
    "Bold: the best mean of its column among the runs to one target, and settings whose paired difference from it by "
    "seed is within its error (95 % interval of Student's t around 0); with one seed the best mean alone."
)


def as_markdown(lines: Sequence[Sequence[str]], text: int = 1) -> str:
    """A table as Markdown, in which no cell is markup but for ``**``.

    Args:
        lines: Its head and its rows.
        text: Number of columns that are text, which are on the left.
    """
    head, *body = ([escape(cell).replace("|", "\\|").replace("`", "'") for cell in line] for line in lines)
    rule = ["---"] * text + ["---:"] * (len(head) - text)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body]) + "\n"


def runs_of(cells: Mapping[str, MeanAndError]) -> int:
    """The number of runs of a row.

    Args:
        cells: Its means by metric.
    """
    return max((cell.n for cell in cells.values()), default=0)


def metric_name(word: str) -> str:
    """The full name of a metric: ``w2`` is ``test/w2``.

    Args:
        word: The name with or without its stage.
    """
    return word if "/" in word else f"test/{word}"


def direction(metric: str) -> int:
    """1 where less of a number is better, −1 where more is, and 0 where neither can be said or is known.

    Args:
        metric: The full name of the number.
    """
    stage, _, name = metric.rpartition("/")
    if stage in ("coupling", "pilot") or name.endswith("_se"):
        return 0
    signs = ((0, NEITHER), (-1, MORE), (1, LESS))
    return next((sign for sign, names in signs for known in names if fnmatchcase(name, known)), 0)


def aim(metric: str) -> int:
    """What an optimisation makes of a number: −1 for the most, 1 for the least, which is that of unknown ones.

    Args:
        metric: The full name of the number.
    """
    return direction(metric) or 1


def aim_in_words(metric: str) -> str:
    """A number with its aim, for instance ``test/w2 (less is better)``.

    Args:
        metric: The full name of the number.
    """
    return f"{metric} ({'more' if aim(metric) < 0 else 'less'} is better)"


def tabulated(jobs: list[Job], metrics: list[str]) -> SweepTable:
    """The table of a sweep.

    Reference rows (untranslated, retrieved, floor) follow, for each group of settings in which they were measured.

    Args:
        jobs: The finished runs, at least one.
        metrics: Names with or without ``test/``; none: every test metric.

    Raises:
        FlowportError: For a metric that no run has, for runs without metrics, and for too many columns.
    """
    varied = varied_settings([job.settings for job in jobs])
    wanted = list(dict.fromkeys(map(metric_name, metrics))) or _headline(jobs)
    if not wanted:
        raise FlowportError(
            "the runs of this sweep have no metrics: name columns, for instance --metrics train/seconds"
        )
    if max(len(varied), len(wanted)) > COLUMNS:
        raise FlowportError(
            f"this sweep has {len(varied)} settings that vary and {len(wanted)} metrics, more than {COLUMNS} columns: "
            "name the metrics by --metrics"
        )
    for name in wanted:
        if not any(name in job.numbers for job in jobs):
            known = sorted({m for job in jobs for m in job.numbers if m.startswith("test/")})
            raise FlowportError(f"no run of this sweep has a metric {name}; they have {', '.join(known)}")
    groups = {setting: [job.numbers for job in same] for setting, same in grouped(jobs).items()}
    rows = [(setting, _cells(numbers, wanted, "")) for setting, numbers in groups.items()]
    for reference in REFERENCES:
        rows += _reference_rows(varied, groups, wanted, reference)
    return SweepTable(varied, wanted, rows)


def grouped(jobs: Sequence[Job], varied: Sequence[str] = ()) -> dict[tuple[str, ...], list[Job]]:
    """The runs of every setting: runs that differ in their seed alone.

    Args:
        jobs: The finished runs.
        varied: The keys that make a setting; none for those that vary between these runs.
    """
    varied, groups = varied or varied_settings([job.settings for job in jobs]), dict[tuple[str, ...], list[Job]]()
    for job in jobs:
        groups.setdefault(tuple(job.settings.get(key, "") for key in varied), []).append(job)
    return groups


def by_target(jobs: Sequence[Job]) -> list[list[Job]]:
    """The runs to each target, and of each pair of domains: numbers of other ones are not compared.

    Args:
        jobs: The finished runs.
    """
    groups = dict[tuple[str, ...], list[Job]]()
    for job in jobs:
        told = [f"{key}={value}" for key, value in job.settings.items() if key.startswith(TARGET)]
        groups.setdefault((job.target, *told), []).append(job)
    return list(groups.values())


def varied_settings(settings: list[dict[str, str]]) -> list[str]:
    """The keys whose values differ between runs, without the seed; the first key where none differs.

    Args:
        settings: Overrides of every run, key to value.
    """
    keys = list(dict.fromkeys(key for words in settings for key in words if key != SEED))
    return [key for key in keys if len({words.get(key) for words in settings}) > 1] or keys[:1]


def _headline(jobs: list[Job]) -> list[str]:
    hidden = (
        "nfe",
        "_n",
        "_se",
        "_chance",
        "_matched",
        "_ceiling",
        "_least",
        "_left_out",
        "_of",
        "seconds",
        "_per_dimension",
        *REFERENCES,
    )
    names = dict.fromkeys(m for job in jobs for m in job.numbers if m.startswith("test/"))
    return [m for m in names if not m.endswith(hidden)]


def distinct(values: Sequence[float]) -> list[float]:
    """The independent values of a reference: runs of one seed draw the same points, which count once.

    Args:
        values: One number per run.
    """
    return list(dict.fromkeys(values))


def _cells(runs: list[dict[str, float]], wanted: list[str], suffix: str) -> dict[str, MeanAndError]:
    values = {m: [r[m + suffix] for r in runs if m + suffix in r] for m in wanted}
    if suffix:
        values = {m: distinct(v) for m, v in values.items()}
    return {m: MeanAndError.of(v) for m, v in values.items() if v}


def _reference_rows(
    varied: list[str], groups: dict[tuple[str, ...], list[dict[str, float]]], wanted: list[str], reference: str
) -> list[tuple[tuple[str, ...], dict[str, MeanAndError]]]:
    """Rows of a reference, which depends on the data alone: on the settings of a side, or else on the first setting."""
    places = [k for k, key in enumerate(varied) if key.startswith(SIDES)] or [0]
    seen = dict[tuple[str, ...], list[dict[str, float]]]()
    for setting, runs in groups.items():
        seen.setdefault(tuple(setting[k] for k in places if k < len(setting)), []).extend(runs)
    same = dict[tuple[str, ...], list[tuple[str, ...]]]()
    for data, runs in seen.items():
        cells = _cells(runs, wanted, f"_{reference}")
        if cells:
            same.setdefault(tuple(f"{m}{cell.mean:.6g}" for m, cell in cells.items()), []).append(data)
    rows = []
    for those in same.values():
        label = [reference] * len(varied) or ["any"]
        for place, k in enumerate(places if varied else ()):
            label[k] = _joined([data[place] for data in those], [data[place] for data in seen])
        if len(places) == len(label):
            label[-1] = f"{label[-1]}: {reference}"
        rows.append((tuple(label), _cells(seen[those[0]], wanted, f"_{reference}")))
    return rows


def _joined(values: Sequence[str], every: Sequence[str]) -> str:
    """The values of a setting that share a row, ``"any"`` where those are all of several."""
    found = list(dict.fromkeys(values))
    return "any" if len(found) > 1 and len(found) == len(set(every)) else ", ".join(found)
