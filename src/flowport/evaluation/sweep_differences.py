"""Paired differences between the settings of a sweep by seed, and which settings are best within the error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from flowport.errors import FlowportError
from flowport.evaluation.sweep_table import (
    SEED,
    Job,
    MeanAndError,
    SweepTable,
    by_target,
    direction,
    grouped,
    varied_settings,
)

LEVEL = 0.95
"""Probability of the interval of a difference."""
BASELINES = ("best", "first")
"""What the settings are compared with."""


@dataclass(frozen=True)
class Difference:
    """A setting minus another one, paired by seed.

    Args:
        metric: Name of the number.
        setting: The setting.
        baseline: The setting that is taken away.
        value: Mean and standard error over the seeds in common; None where there is none.
    """

    metric: str
    setting: tuple[str, ...]
    baseline: tuple[str, ...]
    value: MeanAndError | None

    @property
    def margin(self) -> float:
        """Half the width of the interval of Student's t with n − 1 degrees of freedom; NaN for one seed."""
        if self.value is None or self.value.n < 2:
            return math.nan
        return float(stats.t.ppf((1 + LEVEL) / 2, self.value.n - 1)) * self.value.error

    @property
    def within_error(self) -> bool | None:
        """Whether the interval leaves in 0; None where one seed gives no interval."""
        if self.setting == self.baseline:
            return True
        return None if self.value is None or math.isnan(self.margin) else abs(self.value.mean) <= self.margin


def differences(jobs: Sequence[Job], metrics: Sequence[str], baseline: str = "best") -> list[Difference]:
    """The difference d = mean over seeds s of (m_s − b_s) of every setting from the baseline, for every metric.

    Runs of one setting and one seed are averaged first. Runs to different targets are not compared.

    Args:
        jobs: The finished runs.
        metrics: Full names of the numbers.
        baseline: ``"best"``, the setting of the best mean, or ``"first"``, the first setting of the sweep, both of
            those to the same target. Of a number that has no best, the first.

    Raises:
        FlowportError: For another baseline.
    """
    if baseline not in BASELINES:
        raise FlowportError(f"--baseline {baseline} is not one of {', '.join(BASELINES)}")
    varied = varied_settings([job.settings for job in jobs])
    groups = [grouped(same, varied) for same in by_target(jobs)]
    signs = {metric: direction(metric) if baseline == "best" else 0 for metric in metrics}
    return [gap for metric in metrics for group in groups for gap in _from_baseline(group, metric, signs[metric])]


def _from_baseline(groups: dict[tuple[str, ...], list[Job]], metric: str, sign: int) -> list[Difference]:
    """The differences of one number between the settings to one target."""
    by_seed = {setting: _by_seed(same, metric) for setting, same in groups.items()}
    by_seed = {setting: values for setting, values in by_seed.items() if values}
    base = _baseline(by_seed, sign)
    found = list[Difference]()
    for setting, values in by_seed.items() if base is not None else ():
        assert base is not None
        gaps = [values[seed] - by_seed[base][seed] for seed in values if seed in by_seed[base]]
        found.append(Difference(metric, setting, base, MeanAndError.of(gaps) if gaps else None))
    return found


def _by_seed(jobs: Sequence[Job], metric: str) -> dict[str, float]:
    values = dict[str, list[float]]()
    for job in jobs:
        if metric in job.numbers:
            values.setdefault(job.settings.get(SEED, ""), []).append(job.numbers[metric])
    return {seed: math.fsum(same) / len(same) for seed, same in values.items()}


def _baseline(by_seed: dict[tuple[str, ...], dict[str, float]], sign: int) -> tuple[str, ...] | None:
    """The setting of the best mean, without a sign the first one; None where no mean is a number."""
    means = {setting: math.fsum(values.values()) / len(values) for setting, values in by_seed.items()}
    means = {setting: mean for setting, mean in means.items() if not math.isnan(mean)}
    return min(means, key=lambda setting: sign * means[setting], default=None)


def marked(sheet: SweepTable, jobs: Sequence[Job]) -> SweepTable:
    """The table in which the best setting of every metric is marked, with those that are within the error of it.

    Nothing is marked where there is one setting of a target, nor in a number that has no best.

    Args:
        sheet: The table.
        jobs: Its runs.
    """
    judged = [metric for metric in sheet.metrics if direction(metric)]
    best = dict[str, set[tuple[str, ...]]]()
    gaps = differences(jobs, judged)
    several = {(gap.metric, gap.baseline) for gap in gaps if gap.setting != gap.baseline}
    for gap in gaps:
        if gap.within_error and (gap.metric, gap.baseline) in several:
            best.setdefault(gap.metric, set()).add(gap.setting)
    return SweepTable(sheet.settings, sheet.metrics, sheet.rows, best)
