"""A search whose folder is its state: trials that are proposed, run by a launcher, and told, up to a total number."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowport.cache import write_atomically
from flowport.errors import FlowportError, Stopped
from flowport.evaluation.sweep_table import aim_in_words
from flowport.run.claim import claimed
from flowport.run.planned_job import ENDED, PlannedJob
from flowport.run.search_space import SearchSpace
from flowport.run.sweep_end import ended
from flowport.run.sweep_folder import Launch, launched, refuse_second, remove, settle
from flowport.run.sweep_report import at_once, say, stopped, watched
from flowport.run.trials import IN_VAIN, JOURNAL, Trials, require_optuna
from flowport.run.words import objectives

Plan = Callable[[int, tuple[str, ...]], PlannedJob]
"""(number of a trial, its words) -> its job."""
Stream = Callable[[Callable[[], tuple[int, Sequence[str]] | None], Callable[[int, Any], None]], None]
"""(what gives the next job, what is told of its end): ``stream`` of the launcher of local processes."""
Taken = tuple[int, tuple[str, ...], int | None]
"""Number of a trial, its words, and the number of the trial that it repeats."""


class Search:
    """The jobs of a search, each of them a trial that has its number and its folder.

    Args:
        folder: Of the sweep.
        space: What is chosen.
        plan: Makes the job of a trial.
        total: Number of trials that are runs of their own, those of earlier calls among them.
        sampler: Node of Optuna's sampler.
    """

    def __init__(self, folder: Path, space: SearchSpace, plan: Plan, total: int, sampler: DictConfig) -> None:
        self.folder, self.space, self.plan, self.total, self.sampler = folder, space, plan, total, sampler
        self.jobs: list[PlannedJob] = []
        self.waiting: list[Taken] = []
        self.common = frozenset(part for part in space.parts if isinstance(part, str))

    def open(self, names: Sequence[str]) -> None:
        """Read the journal, tell what has ended since, and find what is left.

        Args:
            names: The numbers that are optimised.
        """
        self.trials = Trials(self.folder, self.space, names, self.sampler)
        self.jobs = [self._planned(number, words) for number, words in self.trials.runs()]
        by_number = {job.number: job for job in self.jobs}
        for taken in self.trials.running():
            number, _, first = taken
            if first is not None:
                self.trials.repeat(number, first)
            elif not self._told(by_number[number]):
                self.waiting.append(taken)

    def _planned(self, number: int, words: tuple[str, ...]) -> PlannedJob:
        return self.plan(number, words).showing_without(self.common)

    def _told(self, job: PlannedJob) -> bool:
        """Tell a trial that has ended since its parent died; one that was stopped goes on."""
        dead = job.state == "running" and job.holder() is None
        job.note_death()
        if job.step == "skip" or job.state == "failed" or dead:
            self._tell(job)
            return True
        return False

    @property
    def exhausted(self) -> bool:
        """Whether nothing new is proposed any more."""
        return self.trials.in_vain >= IN_VAIN

    @property
    def left(self) -> int:
        """Number of runs that are still to be proposed, or to go on."""
        return len(self.waiting) + (0 if self.exhausted else max(0, self.total - len(self.jobs)))

    def take(self) -> PlannedJob | None:
        """The next job; None where all have been proposed."""
        while self.left:
            again = bool(self.waiting)
            number, words, first = self.waiting.pop(0) if again else self.trials.ask()
            if first is not None:
                self.trials.repeat(number, first)
                continue
            job = next((each for each in self.jobs if each.number == number), None) or self._planned(number, words)
            if not again:
                self.jobs.append(job)
            if job.step == "skip":  # of a journal that was lost
                self._tell(job)
                continue
            job.queue()
            return job
        return None

    def ended(self, job: PlannedJob, value: Any) -> None:
        """Tell the end of a job.

        Args:
            job: The job.
            value: What it returned, or the exception that it raised.

        Raises:
            FlowportError: Where the runs of this search do not have the number that is optimised.
        """
        settle(job, value)
        job.wait()
        if job.state not in ENDED:
            job.note("killed", "its launcher ended before it did")
        self._tell(job)

    def _tell(self, job: PlannedJob) -> None:
        numbers = job.folder.read_metrics() if job.state == "finished" and job.folder.finished else None
        self.trials.tell(job.number, numbers)
        error = str(job.held().get("error", ""))
        if numbers is None and error.startswith("optimise="):
            raise FlowportError(error)  # all other trials would say the same

    def summary(self) -> str:
        """The best trial in a sentence, or those that none excels in all numbers."""
        best = self.trials.best()
        if not best:
            return "no trial has finished"
        by_number, names = {job.number: job for job in self.jobs}, self.trials.objectives
        shown = [
            f"{number} ({by_number[number]}): {', '.join(f'{n} {v:.4g}' for n, v in zip(names, values, strict=True))}"
            for number, values in best
        ]
        count = f"{len(self.jobs)} runs"
        if self.exhausted:
            count += ", with which all that is proposed has been tried,"
        if len(names) == 1:
            return f"the best of {count} is trial {shown[0]}"
        return f"of {count} none excels these in all of {', '.join(names)}: trial {'; '.join(shown)}"


def run_search(search: Search, launch: Launch, stream: Stream | None, config: DictConfig) -> None:
    """Run what is left of a search, and tell what became of it.

    Args:
        search: The search.
        launch: Of Hydra's launcher.
        stream: Of flowport's launcher, which asks for a job when a process is free; None under other launchers.
        config: Of the sweep, with Hydra's own node.

    Raises:
        FlowportError: Where it has nothing to optimise, Optuna is not installed, another sweep lives in the folder, or
            the folder is of another search.
        Stopped: Where a signal ended it.
        SystemExit: With status 1 where a trial failed, or the disk does not take the tables.
    """
    names = objectives(config.get("optimise"))
    if not names:
        raise FlowportError(
            "hydra/sweeper=optuna has nothing to optimise: write optimise=test/w2, or several as a list"
        )
    if len(set(names)) < len(names):
        raise FlowportError(f"optimise={config.optimise} names a number twice")
    require_optuna()
    folder = search.folder
    with claimed(folder, partial(refuse_second, folder)):
        if config.get("restart"):
            _remove(folder)
        search.open(names)
        say(_plan(search, config))
        if search.left:
            write_atomically(folder / "multirun.yaml", partial(OmegaConf.save, config))
            try:
                with watched(search.jobs, int(config.get("jobs", 1)), search.total):
                    _run(search, launch, stream, _batch(config))
            except (Stopped, KeyboardInterrupt) as stop:
                raise stopped(stop, folder, search.jobs) from None
    again = "a trial that failed is not run again: hydra.sweeper.n_trials=<more> proposes others"
    good = ended(folder, search.jobs, again)
    say(search.summary())
    if not good:
        raise SystemExit(1)


def _plan(search: Search, config: DictConfig) -> str:
    """What is said before a search starts."""
    held, total, names = len(search.jobs), search.total, ", ".join(map(aim_in_words, search.trials.objectives))
    if not search.left:
        return (
            f"the search in {search.folder} has its {held} runs: nothing is started; hydra.sweeper.n_trials=<more> "
            "goes on, restart=true starts it anew"
        )
    if not held:
        return f"{total} runs for {names} in {search.folder}, {at_once(config)}; the same command again goes on there"
    return f"going on in {search.folder}: {search.left} of {total} runs for {names} are left, {at_once(config)}"


def _remove(folder: Path) -> None:
    """Remove the trials of an earlier search, unless one of them still runs."""
    remove([path for path in folder.iterdir() if (path / "status.json").is_file()])
    (folder / JOURNAL).unlink(missing_ok=True)


def _batch(config: DictConfig) -> int:
    """Number of trials that are proposed at once where the launcher does not ask for them."""
    one = str(config.hydra.launcher._target_).endswith(".BasicLauncher")
    return 1 if one else int(config.get("jobs", 1))


def _run(search: Search, launch: Launch, stream: Stream | None, batch: int) -> None:
    """Run trials until there are no more: as soon as a process is free, or, under another launcher, by the batch."""
    if stream is not None:
        running = dict[int, PlannedJob]()

        def take() -> tuple[int, Sequence[str]] | None:
            job = search.take()
            if job is None:
                return None
            running[job.number] = job
            return job.number, [*job.words, *job.place]

        stream(take, lambda number, value: search.ended(running.pop(number), value))
        return
    while taken := [job for job in (search.take() for _ in range(batch)) if job is not None]:
        failure = launched(taken, launch)
        for job in taken:
            search.ended(job, failure)
