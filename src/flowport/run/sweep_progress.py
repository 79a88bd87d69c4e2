"""How far the running jobs of a sweep are, from what each of them notes in its folder, and what the sweep will cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowport.errors import FlowportError
from flowport.run.planned_job import PlannedJob
from flowport.run.run_folder import read_json

SAID = 30.0
"""Seconds between two lines about a job that runs."""


@dataclass(frozen=True)
class Progress:
    """How far the training of a job is.

    Args:
        step: Number of the step.
        steps: Number of the last one.
        step_seconds: Mean time of a step.
    """

    step: int
    steps: int
    step_seconds: float

    @property
    def minutes(self) -> float:
        """Minutes of training that are left."""
        return self.step_seconds * (self.steps - self.step) / 60


def progress_of(job: PlannedJob) -> Progress | None:
    """How far a job is; None for one that does not train at present.

    Args:
        job: The job.
    """
    try:
        found: dict[str, Any] = read_json(job.folder.progress)
        return Progress(int(found["step"]), int(found["steps"]), float(found["step_seconds"]))
    except (FlowportError, OSError, KeyError, TypeError, ValueError):
        return None


class ProgressLines:
    """The lines of the jobs that run, and once the budget of the sweep, by the first steps of its first jobs.

    Args:
        total: Number of jobs that were left when the sweep began.
        at_once: How many of them run at a time.
    """

    def __init__(self, total: int, at_once: int) -> None:
        self.total, self.at_once = total, max(at_once, 1)
        self.told = False
        self.said: dict[int, float] = {}

    def of(self, jobs: Sequence[PlannedJob], ended: int = 0, begun: int = 0) -> list[str]:
        """The lines that are due.

        Args:
            jobs: Those that run.
            ended: Number of jobs that have ended since the sweep began.
            begun: Number of waiting jobs that go on from a checkpoint.
        """
        found, now = [(job, progress_of(job)) for job in jobs], time.monotonic()
        known = [(job, progress) for job, progress in found if progress is not None]
        lines = []
        if known and not self.told:
            self.told = True
            lines.append(self._budget([progress for _, progress in known], self.total - ended, begun))
        for job, progress in known:
            if now - self.said.setdefault(job.number, now) >= SAID:
                self.said[job.number] = now
                lines.append(
                    f"job {job.folder.path.name} ({job}) step {progress.step} of {progress.steps}, "
                    f"about {progress.minutes:.1f} min of training left"
                )
        return lines

    def _budget(self, first: Sequence[Progress], left: int, begun: int) -> str:
        """What the rest of the sweep costs, if waiting jobs train as long as the first ones, from where they stand.

        Jobs that go on from a checkpoint are taken to have as much left as the running ones have.
        """
        rests = [each.minutes for each in first]
        whole = sum(each.step_seconds * each.steps for each in first) / len(first) / 60
        half = max(0, min(begun, left - len(first)))
        ends = [0.0] * self.at_once
        for rest in [*rests, *[sum(rests) / len(rests)] * half, *[whole] * (left - len(first) - half)]:
            ends[ends.index(min(ends))] += rest  # to the process that is free first
        pace = 1000 * sum(each.step_seconds for each in first) / len(first)
        return (
            f"budget: {left} job{'s' if left != 1 else ''} of {whole:.1f} min of training, about {max(ends):.1f} min "
            f"are left in all with {self.at_once} at a time (by the first steps, {pace:.3g} ms each), and measuring on "
            "top"
        )
