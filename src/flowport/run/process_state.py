"""What a job may change of the process that it shares with other jobs, and how much memory it leaves behind."""

import gc
import os
import random
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHARED_JOBS = 500
"""Number of jobs after which a process is replaced by a new one."""
GROWTH = 512.0
"""Growth of the resident memory of a process since its first job, in MiB, from which it is replaced by a new one."""
CUDNN = ("allow_tf32", "benchmark", "deterministic")
"""Attributes of torch.backends.cudnn that change the results of a later job."""


@contextmanager
def unchanged_process() -> Iterator[None]:
    """A context that ends with the process as it was before: what a job leaves there reaches no later job.

    These are the states of global random generators (Python's, NumPy's, torch's), torch's threads, default
    type, gradients and rounding, filters of warnings, environment, working directory, ``sys.path``, ``sys.argv``, and
    matplotlib's settings and open figures. Hydra sets the handlers of loggers anew for every job.
    """
    drawn = random.getstate(), np.random.get_state()  # noqa: NPY002 (libraries draw from it)
    restore_torch, style = _torch_state(), _style()
    variables, place, path, words = dict(os.environ), Path.cwd(), list(sys.path), list(sys.argv)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])  # noqa: NPY002
        restore_torch()
        _restore_variables(variables)
        os.chdir(place)
        sys.path[:], sys.argv[:] = path, words
        _restore_style(style)


def _torch_state() -> Callable[[], None]:
    """What restores the state that torch has now."""
    drawn, seed = torch.get_rng_state(), torch.initial_seed()
    threads, kind, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    precision, switches = torch.get_float32_matmul_precision(), [getattr(torch.backends.cudnn, name) for name in CUDNN]
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    def restore() -> None:
        torch.set_rng_state(drawn)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        torch.set_num_threads(threads)
        torch.set_default_dtype(kind)
        torch.set_grad_enabled(gradients)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        for name, value in zip(CUDNN, switches, strict=True):
            setattr(torch.backends.cudnn, name, value)

    return restore


def _restore_variables(variables: dict[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _style() -> dict[str, Any] | None:
    """The settings of matplotlib; None where it is not imported yet."""
    matplotlib = sys.modules.get("matplotlib")
    return None if matplotlib is None else dict(matplotlib.rcParams)


def _restore_style(style: dict[str, Any] | None) -> None:
    matplotlib, pyplot = sys.modules.get("matplotlib"), sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")
    if matplotlib is None:
        return
    if style is None:
        matplotlib.rcdefaults()
    else:
        with warnings.catch_warnings(action="ignore"):  # of settings that matplotlib takes back
            matplotlib.rcParams.update(style)


def resident() -> float:
    """Resident memory of this process in MiB: at present, or its peak where the system does not say."""
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class MemoryWatch:
    """Decides when a process that runs jobs one after the other is replaced by a new one.

    Args:
        jobs: Number of jobs after which it is.
        growth: Growth of its resident memory since its first job in MiB from which it is.
    """

    def __init__(self, jobs: int = SHARED_JOBS, growth: float = GROWTH) -> None:
        self.jobs, self.growth = jobs, growth
        self.done, self.first = 0, 0.0

    def worn(self) -> bool:
        """Whether the process should be replaced, asked after each of its jobs."""
        self.done += 1
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # for the processes beside this one
        if self.done == 1:
            self.first = resident()
        if self.done < self.jobs and resident() - self.first > self.growth:
            gc.collect()  # a model and its trainer refer to each other
        return self.done >= self.jobs or resident() - self.first > self.growth
