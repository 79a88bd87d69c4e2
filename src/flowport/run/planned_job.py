"""A job of a sweep, as the process that runs the sweep sees it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError, printable
from flowport.run.claim import Claim
from flowport.run.job_status import digest_of, note_status, read_status, write_status
from flowport.run.run_folder import RunFolder
from flowport.run.sweep_job import step_of

ENDED = ("finished", "failed", "killed")
"""States of jobs that have ended."""
LOOK = 0.5
"""Seconds between two looks at the states of the jobs."""


@dataclass(frozen=True)
class PlannedJob:
    """A job of a sweep.

    Args:
        number: In the order of the sweep.
        words: Its overrides.
        folder: Its folder.
        digest: Of its config.
        place: Overrides by which a launcher runs it there.
        common: Words that all jobs of the sweep have, which are not shown.
    """

    number: int
    words: tuple[str, ...]
    folder: RunFolder
    digest: str
    place: tuple[str, ...]
    common: frozenset[str] = frozenset()

    @classmethod
    def of(cls, sweep: Path, number: int, words: Sequence[str], config: DictConfig) -> "PlannedJob":
        """A job by its composed config, from which Hydra's own node is removed.

        Args:
            sweep: Folder of the sweep.
            number: Of the job.
            words: Its overrides.
            config: As Hydra composed it.
        """
        for node in (config, config.hydra):
            OmegaConf.set_struct(node, False)
            OmegaConf.set_readonly(node, False)
        config.hydra.job.num = number
        name = str(config.hydra.sweep.subdir)
        config.pop("hydra")
        place = [f"hydra.sweep.dir={_quoted(str(sweep))}", f"hydra.sweep.subdir={_quoted(name)}"]
        place.append("hydra.output_subdir=null")  # Hydra would write its config over that of a run to be resumed
        return cls(number, tuple(words), RunFolder(sweep / name), digest_of(config), tuple(place))

    def showing_without(self, common: frozenset[str]) -> "PlannedJob":
        """The same job, which shows its words without some.

        Args:
            common: Those that all jobs of the sweep have.
        """
        return replace(self, common=common)

    def __str__(self) -> str:
        own = [word for word in self.words if word not in self.common]
        return printable(" ".join(own)) or "one setting"

    @property
    def step(self) -> str:
        """What is done with it: ``"skip"``, ``"resume"`` or ``"anew"``.

        Raises:
            FlowportError: Where its folder holds something else.
        """
        try:
            return step_of(self.folder, self.digest)
        except FlowportError as error:
            held = [str(word) for word in self.held().get("overrides", [])]
            shown = " ".join(word for word in held if word not in self.words)
            shown = f" ({printable(shown)})" if shown else ""
            raise FlowportError(
                f"job {self.number} of this sweep ({self}) cannot go on: {error}{shown}; give hydra.sweep.dir=<another "
                "folder>, or restart=true, by which every job starts anew"
            ) from None

    @property
    def state(self) -> str:
        """Its state, empty where it has none."""
        return str(self.held().get("state", ""))

    def held(self) -> dict[str, Any]:
        """What its status.json holds; empty where it is damaged."""
        try:
            return read_status(self.folder)
        except FlowportError:
            return {}

    def holder(self) -> dict[str, Any] | None:
        """The living process that works in its folder; None where there is none."""
        return Claim(self.folder.path).holder()

    def queue(self) -> None:
        """Note that it waits for its turn; what is known of an earlier attempt stays known."""
        self.folder.create()
        held = read_status(self.folder)
        state = held.pop("state", "queued")
        if state == "running" and self.holder():
            return  # of a parent that has died; it is waited for
        if state == "failed" or not held:
            held = {"attempts": held.get("attempts", 0)}
            self.folder.checkpoint.unlink(missing_ok=True)  # a failed job is run anew
        facts = {"config": self.digest, "overrides": list(self.words), "error": None}
        write_status(self.folder, "queued", {**held, **facts})

    def note(self, state: str, error: str) -> None:
        """Write its state, where the disk takes it.

        Args:
            state: The state.
            error: The sentence of what ended it.
        """
        held = self.held()
        held.pop("state", None)
        note_status(self.folder, state, {**held, "error": error})

    def note_death(self) -> None:
        """Note that its process has ended without noting it, where that is so."""
        if self.state == "running" and self.holder() is None and self.state == "running":
            self.note("killed", "its process ended without a word: it was killed, or its machine was")

    def wait(self) -> None:
        """Wait for its end, where it runs in a process of which the launcher knows nothing any more."""
        while self.state == "running" and self.holder() is not None:
            time.sleep(LOOK)
        self.note_death()  # where the disk takes it


def _quoted(value: str) -> str:
    """A value in Hydra's grammar."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
