"""A process that runs jobs of a sweep, one after the other, started by ``flowport.run.local_workers``.

It reads from its standard input the settings of the sweep and then its jobs, and writes what they return to its
standard output. It stops where its parent has ended. Its jobs do not see each other: a job's results are those that it
has in a process of its own.
"""

import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from omegaconf import DictConfig, open_dict

from flowport.run.cli import report_errors
from flowport.run.process_state import MemoryWatch, unchanged_process


def execute(setting: dict[str, Any], number: int, words: Sequence[str]) -> Any:
    """Run one job as Hydra's launchers do, and return its value or its exception.

    Args:
        setting: ``context``, ``config`` and ``task`` of Hydra.
        number: Of the job.
        words: Its overrides.
    """
    config: DictConfig = setting["context"].config_loader.load_sweep_config(setting["config"], list(words))
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{number}"
        config.hydra.job.num = number
    HydraConfig.instance().set_config(config)
    with unchanged_process():
        done = run_job(
            hydra_context=setting["context"],
            config=config,
            task_function=setting["task"],
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    return done._return_value


def serve() -> None:
    """Read jobs and run them until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what jobs print beside their own files does not get among the answers
    asked = os.fdopen(os.dup(0), "rb")  # not sys.stdin, which the end of Python waits for while a thread reads it
    setting = pickle.load(asked)
    sys.argv = setting["argv"]
    setup_globals()
    Singleton.set_state({**Singleton.get_state(), "instances": setting["singletons"]})
    jobs: queue.Queue[Any] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_read, args=(asked, jobs, busy), daemon=True).start()
    watch = MemoryWatch()
    while (job := jobs.get()) is not None:
        busy.set()
        with report_errors():
            value = execute(setting, *job)
        busy.clear()
        worn = watch.worn()
        try:
            text = pickle.dumps((value, worn))
        except Exception:
            text = pickle.dumps((RuntimeError(str(value)), worn))
        answers.write(text)
        answers.flush()


def _read(asked: IO[bytes], jobs: queue.Queue[Any], busy: threading.Event) -> None:
    """Pass jobs on; where the parent has ended, stop the job that runs, which saves its checkpoint."""
    while True:
        try:
            jobs.put(pickle.load(asked))
        except EOFError:
            jobs.put(None)
            if busy.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
            return
