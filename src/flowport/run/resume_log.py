"""Where a resumed run tells how far it is: on the terminal and in the log that Hydra began with the run."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flowport.run.rank_entry import FORMAT
from flowport.run.run_folder import RunFolder


@contextmanager
def told_of(folder: RunFolder) -> Iterator[None]:
    """A context in which what is told goes where that of a new run goes, which Hydra sets up and a resume lacks.

    Args:
        folder: The run's; its log is the one that is there, else ``train.log``.
    """
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    log = next(iter(sorted(folder.path.glob("*.log"))), folder.path / "train.log")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    handlers.append(logging.FileHandler(log, delay=True))  # a refusal writes nothing
    level = root.level
    root.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
