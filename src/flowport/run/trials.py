"""The trials of a search: Optuna proposes them by ask and tell, and its journal lies in the folder of the sweep."""

import importlib.util
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from flowport.errors import FlowportError
from flowport.evaluation.sweep_table import aim
from flowport.run.search_space import SearchSpace

JOURNAL = "optuna.journal"
"""File of the journal in the folder of a sweep, which Optuna and its dashboard read as a JournalStorage."""
IN_VAIN = 20
"""Number of proposals in a row which are known already, from which on a space is taken for exhausted."""
STUDY = "sweep"
"""Name of the study in the journal."""


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        FlowportError: Where it is not.
    """
    if importlib.util.find_spec("optuna") is None:
        raise FlowportError("hydra/sweeper=optuna needs optuna, which is not installed: pip install 'flowport[search]'")


class Trials:
    """The trials of a search, which the process that holds the claim of the folder writes alone.

    A trial that proposes what another one has tried, or tries, is no run: it is told that one's numbers, which costs
    nothing, and Optuna is asked again, until it has proposed nothing new ``IN_VAIN`` times in a row. The proposal
    of a trial depends on the sampler's seed, the trial's number and what was told before, so that a search that was
    interrupted goes on as if it had not been.

    Args:
        folder: Of the sweep.
        space: What is chosen.
        objectives: Names of the numbers that are optimised.
        sampler: Node of Optuna's sampler.

    Raises:
        FlowportError: Where the folder's journal is of another search, or damaged.

    References:
        Akiba et al. 2019, "Optuna: A Next-generation Hyperparameter Optimization Framework", arXiv:1907.10902.
        Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (TPE), NeurIPS.
    """

    def __init__(self, folder: Path, space: SearchSpace, objectives: Sequence[str], sampler: DictConfig) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.objectives, self.sampler = space, list(objectives), sampler
        self.states = optuna.trial.TrialState
        self.repeats: dict[int, list[int]] = defaultdict(list)
        path = folder / JOURNAL
        _mend(path)
        directions: list[Any] = ["maximize" if aim(name) < 0 else "minimize" for name in self.objectives]
        try:
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
            self.study = optuna.create_study(
                storage=storage, study_name=STUDY, directions=directions, load_if_exists=True
            )
        except (ValueError, KeyError) as error:
            raise FlowportError(f"{path} is damaged or of another program: {str(error)[:100]}") from None
        asked = blake2b(repr((space, self.objectives)).encode(), digest_size=8).hexdigest()
        if self.study.user_attrs.setdefault("search", asked) != asked:
            raise FlowportError(
                f"{folder} holds a search of another space, or for other numbers: give "
                "hydra.sweep.dir=<another folder>, or restart=true, by which it starts anew"
            )
        self.study.set_user_attr("search", asked)

    def __len__(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    @property
    def in_vain(self) -> int:
        """Number of trials, after the last one that was new, which repeat others."""
        return len(self) - 1 - max((number for number, _ in self.runs()), default=-1)

    def ask(self) -> tuple[int, tuple[str, ...], int | None]:
        """The next trial: its number, its words, and the trial that it repeats, None for a new one."""
        number, known = len(self), self._known()
        with warnings.catch_warnings(action="ignore"):  # options of samplers that Optuna calls experimental
            node = {**self.sampler, "seed": self._seed(number)} if "seed" in self.sampler else dict(self.sampler)
            self.study.sampler = instantiate(node)
            trial = self.study.ask({axis.key: axis.distribution() for axis in self.space.axes})
        words = self.space.words(trial.params)
        return trial.number, words, known.get(words)

    def _seed(self, number: int) -> int:
        """The sampler's seed at a trial, so that a restart does not draw the same proposals again."""
        text = f"{self.sampler['seed']} {number}".encode()
        return int.from_bytes(blake2b(text, digest_size=4).digest(), "big") % 2**31

    def _known(self) -> dict[tuple[str, ...], int]:
        """The first trial with certain words that has not failed."""
        known = dict[tuple[str, ...], int]()
        for trial in self.study.get_trials(deepcopy=False, states=(self.states.COMPLETE, self.states.RUNNING)):
            known.setdefault(self.space.words(trial.params), trial.number)
        return known

    def runs(self) -> list[tuple[int, tuple[str, ...]]]:
        """Number and words of the trials that repeat no earlier one, and so have a folder of their own."""
        keys, seen, found = {axis.key for axis in self.space.axes}, set[tuple[str, ...]](), []
        for trial in self.study.get_trials(deepcopy=False):
            if set(trial.params) != keys:  # its process died while it asked
                continue
            words = self.space.words(trial.params)
            if words not in seen:
                found.append((trial.number, words))
            if trial.state != self.states.FAIL:
                seen.add(words)
        return found

    def running(self) -> list[tuple[int, tuple[str, ...], int | None]]:
        """Trials whose end nobody has told: number, words, and the trial that each repeats or None."""
        known = self._known()
        found = []
        for trial in self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,)):
            if {axis.key for axis in self.space.axes} != set(trial.params):  # its process died while it asked
                self.study.tell(trial.number, state=self.states.FAIL)
                continue
            words = self.space.words(trial.params)
            first = known[words]
            found.append((trial.number, words, None if first == trial.number else first))
        return found

    def repeat(self, number: int, of: int) -> None:
        """Let a trial have the numbers of another one, now or when it ends.

        Args:
            number: Of the trial.
            of: Number of the trial that it repeats.
        """
        other = self.study.get_trials(deepcopy=False)[of]
        if other.state == self.states.RUNNING:
            self.repeats[of].append(number)
        else:
            self._tell(number, other.values)

    def tell(self, number: int, numbers: dict[str, Any] | None) -> None:
        """Tell the end of a trial, and of those that repeat it.

        Args:
            number: Of the trial.
            numbers: All numbers of its run; None where it failed.

        Raises:
            FlowportError: Where the run does not have the number that is optimised.
        """
        values = None if numbers is None else [self._value(numbers, name) for name in self.objectives]
        for each in (number, *self.repeats.pop(number, [])):
            self._tell(each, values)

    @staticmethod
    def _value(numbers: dict[str, Any], name: str) -> float:
        if name not in numbers:
            raise FlowportError(
                f"optimise={name} is not measured in this run: choose one of {', '.join(sorted(numbers))}"
            )
        return float(numbers[name])

    def _tell(self, number: int, values: Sequence[float] | None) -> None:
        good = values is not None and all(math.isfinite(value) for value in values)
        self.study.tell(number, values if good else None, state=None if good else self.states.FAIL)

    def best(self) -> list[tuple[int, list[float]]]:
        """The best trials that are runs of their own, with their numbers: one, or those that none excels in all."""
        known = self._known()
        best = self.study.best_trials if self._told() else []
        return [(t.number, list(t.values)) for t in best if known[self.space.words(t.params)] == t.number]

    def _told(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(self.states.COMPLETE,)))


def _mend(path: Path) -> None:
    """Remove what a killed process left of a journal: its lock, and a last line that is cut off.

    Nobody else writes it, since its folder is claimed.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    if not path.is_file():
        return
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) != len(text):
        path.write_bytes(whole)
    for line in whole.splitlines():
        try:
            json.loads(line)
        except ValueError:
            raise FlowportError(f"{path} is damaged: it holds a line that is no JSON") from None
