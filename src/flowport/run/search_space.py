"""What a search chooses from, in the words of Hydra's sweeps: choices, ranges and intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from flowport.errors import FlowportError

EXAMPLE = "'optimizer.lr=tag(log,interval(1e-4,1e-2))' 'network.width=int(interval(16,256))' coupling=exact,independent"
"""What a search may choose from."""
DIGITS = 6
"""Significant digits of a number that a search proposes."""


@dataclass(frozen=True)
class Axis:
    """A key and what it may be set to.

    Args:
        key: Of the config, with Hydra's signs.
        choices: The values as words, where they are told one by one; else it is a number.
        low: Least number.
        high: Largest number.
        step: Distance between two numbers; None for any number between them.
        whole: Whether it is a whole number.
        log: Whether its logarithm is searched.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    whole: bool = False
    log: bool = False

    def distribution(self) -> Any:
        """The same for Optuna."""
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution(self.choices)
        if self.whole:
            return distributions.IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return distributions.FloatDistribution(self.low, self.high, self.log, self.step)

    def word(self, value: Any) -> str:
        """The override that sets the key.

        Args:
            value: What Optuna proposes.
        """
        shown = str(value) if self.choices or self.whole else repr(float(f"{value:.{DIGITS}g}"))
        return f"{self.key}={shown}"


@dataclass(frozen=True)
class SearchSpace:
    """All that a search chooses, and what stays as it is.

    Args:
        parts: Axes and words, in the order in which they were given.
    """

    parts: tuple[Axis | str, ...]

    @classmethod
    def of(cls, overrides: Sequence[Override]) -> "SearchSpace":
        """The space that overrides describe.

        Args:
            overrides: As Hydra parsed them; of several for one key the last one counts.

        Raises:
            FlowportError: For a sweep that gives nothing to choose from, or none at all.
        """
        parts = dict[str, Axis | str]()
        for override in overrides:
            key = override.get_key_element()
            whole = not override.is_sweep_override()
            parts[key] = f"{key}={override.get_value_element_as_str()}" if whole else _axis(key, override)
        found = cls(tuple(parts.values()))
        if not found.axes:
            raise FlowportError(f"hydra/sweeper=optuna has nothing to choose: give values, for instance {EXAMPLE}")
        return found

    @property
    def axes(self) -> list[Axis]:
        """What is chosen."""
        return [part for part in self.parts if isinstance(part, Axis)]

    def words(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The overrides of a run.

        Args:
            values: Key -> what Optuna proposes.
        """
        return tuple(part.word(values[part.key]) if isinstance(part, Axis) else part for part in self.parts)


def _axis(key: str, override: Override) -> Axis:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep | RangeSweep):
        axis = _interval(key, sweep) if isinstance(sweep, IntervalSweep) else _range(key, sweep)
        if axis.high < axis.low or (axis.log and axis.low <= 0):
            more = " above 0, whose logarithm is searched" if axis.log else ""
            raise FlowportError(f"{override.input_line} holds no numbers: write the lesser one first{more}")
        return axis
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise FlowportError(f"{override.input_line} holds no value to choose")
    return Axis(key, choices)


def _interval(key: str, sweep: IntervalSweep) -> Axis:
    assert sweep.start is not None and sweep.end is not None
    whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
    return Axis(key, (), sweep.start, sweep.end, None, whole, "log" in sweep.tags)


def _range(key: str, sweep: RangeSweep) -> Axis:
    values = sorted(sweep.range())
    if not values:
        raise FlowportError(f"{key}=range({sweep.start},{sweep.stop},{sweep.step}) holds no number")
    whole, log = isinstance(values[0], int), "log" in sweep.tags
    return Axis(key, (), values[0], values[-1], None if log else abs(sweep.step), whole, log)
