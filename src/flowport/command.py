"""The command line: Hydra around a task, and every mistake of the user's told in one sentence without a traceback.

Light to import, so that --help answers at once: a launcher imports torch only when its task runs.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from flowport.errors import Refusal

SIDES = re.compile(r"^(source|target)=(.+)$")
GROUPS = re.compile(r"^(distribution|cost)=(.+)$")


def launch(task: Callable[[DictConfig], Any], configs: Path, name: str) -> None:
    """Run ``task(config)`` as a Hydra application with the primary config ``name`` of the folder ``configs``.

    Exits with status 2 and one sentence on stderr for bad input; bugs keep their traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of being printed as Hydra likes
    with refusals_told():
        _check_words(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(configs.resolve()), config_name=name)(task)()


class refusals_told:
    """Context in which a Refusal, or a mistake Hydra or OmegaConf found, ends the process with one sentence."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        sentence = told(error)
        if sentence is not None:
            sys.stderr.write(f"flowport: {sentence}\n")
            raise SystemExit(2) from None


def told(error: BaseException | None) -> str | None:
    """The sentence for a user's mistake, None for anything else (a bug, or no error)."""
    cause = error
    while cause is not None:  # Hydra wraps what a constructor raised
        if isinstance(cause, Refusal):
            return _one_line(str(cause))
        cause = cause.__cause__
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _one_line(str(error))
    return None


def _one_line(message: str) -> str:
    return re.sub(r"\s*\n\s*", "; ", message.strip())


def _check_words(words: list[str]) -> None:
    """Two slips that Hydra takes in silence or explains poorly."""
    for word in words:
        side, group = SIDES.match(word), GROUPS.match(word)
        if side:
            raise Refusal(f"{word} sets a key to a string: write distribution@{side[1]}={side[2]}")
        if group and group[1] == "distribution":
            raise Refusal(f"{word} does not say which side: write distribution@source={group[2]} or "
                          f"distribution@target={group[2]}")  # fmt: skip
        if group:
            raise Refusal(f"{word} does not say whose cost: write cost@coupling.cost={group[2]}")
