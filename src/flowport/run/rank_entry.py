"""``python -m flowport.run.rank_entry <job>``: one of several processes that train a run together."""

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from flowport.errors import Stopped
from flowport.run.cli import report_errors, sentence_of
from flowport.run.rank_launch import ENDED, GRACE, JOB, REFUSED
from flowport.run.rank_place import Place, first, here, store
from flowport.run.run_folder import write_json

FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"
"""Hydra's."""


def train_one(job: dict[str, Any]) -> None:
    """Train a run as one of its processes.

    Args:
        job: Of ``rank_launch.job_of``.
    """
    from flowport.run.build import make
    from flowport.run.run_folder import RunFolder

    config = OmegaConf.create(job["config"])
    make(config.stage).run(config, RunFolder(Path(job["folder"]), job["trust"]), job["resume"])


def listen(log: dict[str, Any]) -> None:
    """Log as the command does in the first process, and nowhere in the others.

    Args:
        log: Files and level.
    """
    if not first():
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
    elif log["heard"]:
        files = [logging.FileHandler(file) for file in log["files"]]
        logging.basicConfig(level=log["level"], format=FORMAT, handlers=[logging.StreamHandler(sys.stdout), *files])


class LastWords(report_errors):
    """Context in which what ends the process is written to a file, for the command that started it to tell.

    Args:
        file: The file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        sentence = sentence_of(error)
        words: dict[str, Any] = {"time": time.time()}
        if isinstance(error, KeyboardInterrupt):
            error = Stopped(signal.SIGINT)
        if isinstance(error, Stopped):
            words |= {"stopped": error.status - 128, "state": error.state}
        elif sentence is not None:
            words |= {"refused": sentence}
        else:
            words |= {"fault": "".join(traceback.format_exception(error))}
        write_json(self.file, words)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.status if isinstance(error, Stopped) else 2)  # a lost connection may block an orderly end


def _watch() -> None:
    """Stop as by a signal where the command that started this process has died."""

    def wait() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def follow(place: Place) -> None:
    """Do what the first of the processes that torchrun or srun started says; exits with status 2 where that fails.

    Args:
        place: Of this process.
    """
    told = store(place)
    told.wait([JOB])
    job = json.loads(told.get(JOB))
    if job is None:  # a command that trains nothing in several processes, or one that was refused
        return
    listen(job["log"])
    try:
        with report_errors_silently():
            train_one(job)
    except Stopped as stop:
        os._exit(stop.status)
    except Exception as error:
        told.set(REFUSED, str(place.rank))
        until = time.monotonic() + GRACE
        while time.monotonic() < until and not told.check([ENDED]):
            time.sleep(0.05)
        if not told.check([ENDED]):  # the first process does not say the same
            sys.stderr.write(f"flowport: {sentence_of(error) or traceback.format_exc()}\n")
            sys.stderr.flush()
        os._exit(2)


class report_errors_silently(report_errors):
    """Context with the handlers of ``report_errors`` that reports nothing itself."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def main() -> None:
    """The program."""
    file, place = Path(sys.argv[1]), here()
    assert place is not None
    job = json.loads(file.read_text())
    with LastWords(file.with_name(f"{place.rank}.json")):
        _watch()
        listen(job["log"])
        train_one(job)


if __name__ == "__main__":
    main()
