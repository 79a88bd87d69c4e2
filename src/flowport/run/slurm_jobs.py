"""Jobs of a sweep in Slurm's queue: each is submitted once, and is waited for also by a parent that comes later."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import Any

from flowport.errors import FlowportError
from flowport.run.job_status import read_status, write_status
from flowport.run.local_workers import Killed
from flowport.run.planned_job import ENDED
from flowport.run.run_folder import RunFolder
from flowport.run.sweep_job import run_pickled
from flowport.run.sweep_report import say

OF_ALL = ("name", "timeout_min", "nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node", "mem_gb")
"""Options that submitit names equally for all clusters; those of Slurm alone begin with slurm_."""
SOONEST, LATEST = 1.0, 15.0
"""Seconds between two questions to Slurm, at the beginning and after some minutes."""


class SlurmWork:
    """What a job of Slurm's runs, pickled by submitit.

    Args:
        setting: Pickled values of the sweep, as of ``LocalWorkers``.
    """

    def __init__(self, setting: bytes) -> None:
        self.setting = setting

    def __call__(self, number: int, words: Sequence[str], folder: Path) -> Any:
        """Run a job in its folder; of the tasks of one job (srun), the first one leads.

        Args:
            number: Of the job.
            words: Its overrides.
            folder: Its folder.
        """
        from flowport.run.rank_entry import follow
        from flowport.run.rank_launch import Lead
        from flowport.run.rank_place import here

        place = here()
        if place is not None and place.rank:
            return follow(place)
        with nullcontext() if place is None else Lead():
            value = run_pickled(self.setting, number, words)
            if place is not None and read_status(RunFolder(folder)).get("state") != "finished":
                raise SystemExit(1)  # the other tasks end as well
        return value

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit queues again: the same job, which goes on from its checkpoint.

        Args:
            *arguments: Of the job.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)


def queued(*options: str) -> dict[str, str]:
    """The state of every job in Slurm's queue by its number; needs no accounting.

    Args:
        *options: Of squeue, that choose jobs.

    Raises:
        OSError: Where Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i %T", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode and "Invalid job id" not in done.stderr:  # Slurm has forgotten all of them
        said = done.stderr.strip().splitlines() or ["squeue fails"]
        raise OSError(said[-1])  # its earlier lines tell what it tried
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)


def why_ended(number: str) -> str:
    """How Slurm says that a job ended, for instance ``"Slurm (OUT_OF_MEMORY)"``; it knows for some minutes.

    Args:
        number: Of the job.
    """
    done = subprocess.run(["scontrol", "--oneliner", "show", "job", number], capture_output=True, text=True)
    states = [word.partition("=")[2] for word in done.stdout.split() if word.startswith("JobState=")]
    return f"Slurm ({states[0]})" if states else "Slurm"


class SlurmJobs:
    """The jobs of a sweep in Slurm's queue.

    The number that Slurm gives a job is kept in its status.json before anything is waited for. Jobs of this sweep that
    are queued without being noted there (their parent was killed at that very moment) are cancelled.

    Args:
        sweep: Folder of the sweep.
        setting: Pickled values of the sweep.
        options: Of ``hydra.launcher``.
    """

    def __init__(self, sweep: Path, setting: bytes, options: Mapping[str, Any]) -> None:
        self.sweep, self.setting = sweep, setting
        self.options = {key: value for key, value in options.items() if value is not None}
        mark = blake2b(str(sweep.absolute()).encode(), digest_size=4).hexdigest()
        self.options["name"] = f"{self.options.get('name', 'flowport')}-{mark}"

    def run(self, jobs: Sequence[tuple[int, Sequence[str], Path]]) -> list[Killed | None]:
        """Run jobs until Slurm has none of them any more; for each, why it ended where it does not say so itself.

        Args:
            jobs: Number, overrides and folder of each.

        Raises:
            FlowportError: Where Slurm or submitit is missing, or Slurm refuses the jobs.
        """
        _require_slurm()
        numbers = {folder: str(_held(folder).get("slurm", "")) for _, _, folder in jobs}
        try:
            living = _living(numbers.values())
            self._cancel_unknown()
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FlowportError(f"Slurm does not answer: {' '.join(str(error).split())}") from None
        new = [job for job in jobs if numbers[job[2]] not in living]
        if len(new) < len(jobs):
            say(f"{len(jobs) - len(new)} jobs are in Slurm's queue already: they are waited for")
        if new:
            numbers |= self._submit(new)
        self._wait(numbers)
        return [self._end(folder, numbers[folder]) for _, _, folder in jobs]

    def _submit(self, jobs: Sequence[tuple[int, Sequence[str], Path]]) -> dict[Path, str]:
        """Submit jobs as one array, and note their numbers."""
        import submitit

        options = dict(self.options)
        folder, timeouts = str(options.pop("submitit_folder")), int(options.pop("max_num_timeout", 0))
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=timeouts)
        path = os.pathsep.join(place for place in sys.path if place)
        options["setup"] = [*options.get("setup", []), f"export PYTHONPATH={shlex.quote(path)}"]
        if "cpus_per_task" in options:  # which srun does not take from its job
            options["srun_args"] = [f"--cpus-per-task={options['cpus_per_task']}"]
        executor.update_parameters(**{key if key in OF_ALL else f"slurm_{key}": v for key, v in options.items()})
        work = SlurmWork(self.setting)
        try:
            made = executor.map_array(work, *zip(*jobs, strict=True))
        except (RuntimeError, subprocess.CalledProcessError) as error:  # of submitit, around what sbatch said
            said = " ".join(str(error).split())
            raise FlowportError(
                f"Slurm refuses the jobs of this sweep: {said.rpartition('sbatch: error: ')[2]}"
            ) from None
        numbers = {job[2]: str(one.job_id) for job, one in zip(jobs, made, strict=True)}
        for place, number in numbers.items():
            _note(place, number)
        say(f"{len(jobs)} jobs are in Slurm's queue: scancel {' '.join(sorted(_arrays(numbers.values())))} ends them")
        return numbers

    def _cancel_unknown(self) -> None:
        """Cancel jobs of this sweep that no status.json names."""
        unknown = set(queued(f"--name={self.options['name']}"))
        if unknown:
            unknown -= {str(_held(place.parent).get("slurm")) for place in self.sweep.rglob("status.json")}
        if unknown:
            subprocess.run(["scancel", *sorted(unknown)], capture_output=True)

    def _wait(self, numbers: Mapping[Path, str]) -> None:
        """Wait until none of the jobs is in the queue; one that is queued again is waited for."""
        began, told = time.monotonic(), False
        while True:
            try:
                if not _living(numbers.values()):
                    return
                told = False
            except (OSError, subprocess.TimeoutExpired) as error:
                if all(_held(folder).get("state") in ENDED for folder in numbers):
                    return
                if not told:
                    say(f"Slurm does not answer ({' '.join(str(error).split())}): it is asked again")
                told = True
            time.sleep(min(LATEST, max(SOONEST, (time.monotonic() - began) / 20)))

    @staticmethod
    def _end(folder: Path, number: str) -> Killed | None:
        return None if _held(folder).get("state") in ENDED else Killed(why_ended(number))


def _arrays(numbers: Iterable[str]) -> set[str]:
    """The numbers of whole arrays."""
    return {number.partition("_")[0] for number in numbers if number}


def _living(numbers: Iterable[str]) -> set[str]:
    """Those of the numbers that Slurm runs, or will run."""
    arrays = sorted(_arrays(numbers))
    return queued(f"--jobs={','.join(arrays)}").keys() & set(numbers) if arrays else set()


def _held(folder: Path) -> dict[str, Any]:
    try:
        return read_status(RunFolder(folder))
    except FlowportError:
        return {}


def _note(folder: Path, number: str) -> None:
    """Write the number of a job, unless the job has begun and written it itself."""
    held = _held(folder)
    if held.get("state") == "queued":
        write_status(RunFolder(folder), held.pop("state"), {**held, "slurm": number})


def _require_slurm() -> None:
    """Raise FlowportError where jobs cannot be submitted."""
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        raise FlowportError(
            "hydra/launcher=slurm needs Slurm's sbatch and squeue on the PATH: choose hydra/launcher=local"
        )
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError:
        raise FlowportError('hydra/launcher=slurm needs submitit: pip install "flowport[sweep]"') from None
