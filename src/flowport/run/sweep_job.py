"""One job of a sweep: what its folder holds says whether it is skipped, resumed, or run anew."""

import logging
import os
import pickle
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf

from flowport.cache import write_atomically
from flowport.errors import FlowportError, Stopped
from flowport.run.claim import claimed
from flowport.run.job_status import Stopwatch, digest_of, note_status, read_status, write_status
from flowport.run.requeue import number_in_slurm, requeued
from flowport.run.run_folder import RunFolder

logger = logging.getLogger(__name__)
Work = Callable[[DictConfig, Path], Mapping[str, Any] | None]
KEPT = (".hydra", ".claim", ".claim.lock", ".lock", "rounds", "status.json", "output.txt")
"""What a folder keeps when its job is run anew; rounds of reflow and boosting are of the same config, or made again."""


def step_of(folder: RunFolder, digest: str) -> str:
    """What the next call does with a job: ``"skip"``, ``"resume"`` or ``"anew"``.

    A finished job is skipped, one with a checkpoint goes on from it, one that failed is run anew, but
    for one that failed after its training, in its certificate.

    Args:
        folder: The job's.
        digest: Of its config, by ``digest_of``.

    Raises:
        FlowportError: Where the folder holds another config's job, or a run that no sweep wrote.
    """
    status = read_status(folder)
    if not status:
        if folder.finished or folder.begun:
            raise FlowportError(f"{folder} holds a run that no sweep wrote with its status.json")
        return "anew"
    if status.get("config") != digest:
        raise FlowportError(f"{folder} holds a job of another config")
    if status["state"] == "finished" and folder.finished:
        return "skip"
    trained = status["state"] != "failed" or bool(folder.pending)
    return "resume" if trained and folder.begun and folder.config.is_file() else "anew"


def run_in_sweep(work: Work, resume: Work, config: DictConfig, path: Path) -> Mapping[str, Any] | None:
    """Run a job of a sweep in its folder, where it leaves status.json; a failure is noted there and not raised.

    Where another living process has the folder (a job of a parent that has died), its end is waited for.

    Args:
        work: Runs a job, (config, folder) -> its numbers.
        resume: Continues the run of a folder from its checkpoint.
        config: As Hydra composed it.
        path: The job's folder.

    Returns:
        Its numbers; None where it failed, or has none.

    Raises:
        Stopped: Where a signal ended it.
        SystemExit: Where a signal ended a job of submitit's.
    """
    folder, digest = RunFolder(path), digest_of(config)
    hydra = HydraConfig.get()
    own = hydra.output_subdir is None  # else another sweeper than flowport's, which has written .hydra already
    waiting = partial(logger.info, "waiting for the process %(pid)s of %(host)s")
    with requeued(folder), claimed(folder.path, waiting):
        step = step_of(folder, digest) if own else "anew"
        if step == "skip":
            return folder.read_metrics()
        if step == "anew" and own:
            _clear(folder)
            _write_hydra(folder, config)
        words = [str(word) for word in hydra.overrides.task]
        facts = {"config": digest, "overrides": words, "command": str(hydra.job.name), "pid": os.getpid()}
        facts |= {"attempts": read_status(folder).get("attempts", 0) + 1, "resumed": step == "resume" or None}
        facts |= {"slurm": number_in_slurm()}
        shown = str(hydra.launcher._target_).endswith(".BasicLauncher")  # one after the other, in this process
        with _output_to(None if shown else folder.said):
            return _followed(resume if step == "resume" else work, config, folder, facts)


def run_pickled(setting: bytes, number: int, words: Sequence[str]) -> Any:
    """Run one job in a process that knows nothing of Hydra yet, and return its value or its exception.

    Args:
        setting: Pickled values of the sweep, as of ``LocalWorkers``.
        number: Of the job.
        words: Its overrides.
    """
    from flowport.run.local_worker import execute

    held = pickle.loads(setting)
    sys.argv = held["argv"]
    setup_globals()
    Singleton.set_state({**Singleton.get_state(), "instances": held["singletons"]})
    return execute(held, number, words)


def _followed(work: Work, config: DictConfig, folder: RunFolder, facts: dict[str, Any]) -> Mapping[str, Any] | None:
    """Run a job and write its states."""
    watch = Stopwatch()
    facts |= watch.started()
    try:
        write_status(folder, "running", facts)
        numbers = work(config, folder.path)
    except (Stopped, KeyboardInterrupt) as stop:
        number = stop.status - 128 if isinstance(stop, Stopped) else int(signal.SIGINT)
        state = getattr(stop, "state", "").partition(": go on by ")[0]  # which is the sweep's command, said by itself
        ended = Stopped(number, state)
        _note(folder, "killed", {**facts, **watch.facts(), "error": str(ended)})
        raise ended from None
    except Exception as error:
        _fail(folder, error, {**facts, **watch.facts()})
        return None
    write_status(folder, "finished", {**facts, **watch.facts(), "nfe": (numbers or {}).get("test/nfe")})
    return numbers


@contextmanager
def finishing(folder: RunFolder, as_it_was: bool) -> Iterator[None]:
    """A context in which a job of a sweep that was not finished is finished by a command of its own.

    It counts as finished afterwards, so that its sweep does not run it again; while it runs, the sweep waits for it.

    Args:
        folder: The job's, or that of a run of no sweep, which leaves no status.
        as_it_was: Whether its config stays that of the sweep's job.

    Raises:
        FlowportError: Where another process works in the folder.
    """
    held = read_status(folder)
    if not held:
        yield
        return
    with claimed(folder.path, partial(_refuse, folder)):
        watch = Stopwatch()
        yield
        if as_it_was and held["state"] != "finished" and held.get("command") in ("train", "finetune"):
            facts = {**read_status(folder), "error": None, "traceback": None, "resumed": True}
            facts |= {"attempts": held.get("attempts", 0) + 1, **watch.facts()}
            facts |= {"nfe": folder.read_metrics().get("test/nfe")}
            facts.pop("state")
            write_status(folder, "finished", facts)


def _refuse(folder: RunFolder, holder: dict[str, Any]) -> None:
    raise FlowportError(
        f"run={folder} is being written by process {holder.get('pid')} of {holder.get('host')}, a job of a sweep: wait "
        "for it"
    )


def _fail(folder: RunFolder, error: Exception, facts: Mapping[str, Any]) -> None:
    """Note a failure: its sentence in status.json, and its traceback in a file."""
    from flowport.run.cli import sentence_of

    sentence = sentence_of(error)
    logger.error("flowport: %s", sentence or f"{type(error).__name__}: {error}")
    text = "".join(traceback.format_exception(error))
    if sentence is None:
        sys.stderr.write(text)
    else:
        with suppress(OSError):
            write_atomically(folder.refusal, lambda place: place.write_text(sentence + "\n"))
    with suppress(OSError):  # a full disk
        write_atomically(folder.traceback, lambda place: place.write_text(text))
    said = sentence or " ".join(f"{type(error).__name__}: {error}".split())
    _note(folder, "failed", {**facts, "error": said, "traceback": folder.traceback.name})


def _note(folder: RunFolder, state: str, facts: Mapping[str, Any]) -> None:
    """Write the last state of a job, where the disk takes it."""
    if not note_status(folder, state, facts):
        logger.error("flowport: %s cannot be written: the disk is full, or it may not be written", folder.status)


def _clear(folder: RunFolder) -> None:
    """Remove what an earlier attempt left, so that no step of it stays in the record of this one."""
    for entry in folder.path.iterdir():
        if entry.name in KEPT or entry.suffix == ".log":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _write_hydra(folder: RunFolder, config: DictConfig) -> None:
    """What Hydra writes of a job, at its beginning alone: a resumed run reads the config that its beginning wrote."""
    whole = HydraConfig.instance().cfg
    assert whole is not None
    for name, node in (("config", config), ("hydra", whole), ("overrides", HydraConfig.get().overrides.task)):
        write_atomically(folder.config.with_name(f"{name}.yaml"), partial(OmegaConf.save, node))


@contextmanager
def _output_to(path: Path | None) -> Iterator[None]:
    """A context in which this process, and those that it starts, print into a file; None: to where they did."""
    if path is None:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, place in enumerate(kept, 1):
            os.dup2(place, number)
            os.close(place)
