"""Checks of the words of a command line that Hydra takes in silence or explains poorly."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from flowport.errors import FlowportError
from flowport.run.reward_words import is_own

NO_NAME = re.compile(r"null|true|false|[-+\d.].*|\{\s*\}|")
"""Values that name no member of a config group."""
LISTS = {"metric": "wasserstein,mmd", "logger": "tensorboard,csv", "callback": "early_stopping"}
"""Groups of which a run takes a list, and an example."""
MOVED = {
    "trainer.callbacks": "choose callback=[<names>], or give your own class by +callback.mine._target_=<package.Class>",
    "trainer.logger": "choose logger=[tensorboard,csv,wandb,mlflow], or logger=[] for none",
}
"""Options of Lightning's Trainer that are groups here, and what to write."""


def objectives(optimise: Any) -> list[str]:
    """The names of the numbers that are optimised.

    Args:
        optimise: The key of a config: a name, several, or None.
    """
    if optimise is None:
        return []
    return [optimise] if isinstance(optimise, str) else [str(name) for name in optimise]


@dataclass(frozen=True)
class Groups:
    """The config groups and the keys of a command.

    Args:
        configs: The folder of configs.
        name: The command's primary config.
    """

    configs: Path
    name: str

    def members(self, group: str) -> list[str]:
        """The names of a config group, none where it is no group.

        Args:
            group: Its folder, for instance ``coupling``.
        """
        known = re.fullmatch(r"\w+", group) and (self.configs / group).is_dir()
        return sorted(path.stem for path in (self.configs / group).glob("*.yaml")) if known else []

    @cached_property
    def listed(self) -> list[str]:
        """The entries of the primary config's defaults list, for instance ``distribution@source``."""
        defaults = OmegaConf.load(self.configs / f"{self.name}.yaml").defaults
        return [str(next(iter(entry))) for entry in defaults if not isinstance(entry, str)]

    @cached_property
    def keys(self) -> set[str]:
        """The top-level keys of the command."""
        own = {str(key) for key in OmegaConf.load(self.configs / f"{self.name}.yaml")}
        return own | {entry.rpartition("@")[2] for entry in self.listed} | {"hydra"}


@dataclass(frozen=True)
class Word:
    """One word key=value of a command line.

    Args:
        text: As it was written.
        groups: The groups of the command.
    """

    text: str
    groups: Groups

    @property
    def plain(self) -> str:
        """The key without its sign and its package."""
        return self.text.partition("=")[0].lstrip("+~").partition("@")[0]

    @property
    def value(self) -> str:
        """What stands behind the equals sign."""
        return self.text.partition("=")[2]

    @property
    def members(self) -> list[str]:
        """The members of the group that the key names, none for another key."""
        return self.groups.members(self.plain) if "@" not in self.text.partition("=")[0] else []


def _no_pair(word: Word) -> str | None:
    if not word.plain or ("=" not in word.text and not word.text.startswith("~")):
        return f"{word.text} is not key=value: write for instance {word.plain or 'seed'}=1"
    try:
        OverridesParser.create().parse_override(word.text)
    except HydraException:
        return f"{word.text} cannot be read: write key=value, lists as [1,2], and odd characters in quotes"
    if word.plain.startswith("hydra.sweeper.domains.") and word.value == "null":
        return None  # a domain is left out
    if word.plain.startswith("hydra.") and word.value == "null":
        return f"{word.text} names nothing: leave it out"
    return f"{word.text} names no folder" if word.plain.startswith("hydra.") and not word.value else None


def _no_member(word: Word) -> str | None:
    if word.plain in LISTS and word.value == "null" and word.groups.name == "train":
        return f"{word.text} is no list of {word.plain}s: write {word.plain}=[] for a run without any"
    if word.plain in LISTS and re.search(r"\[.*(\[|\bnull\b)", word.value):
        return f"{word.text} is no list of {word.plain}s: write for instance {word.plain}=[{LISTS[word.plain]}]"
    members = word.groups.members(word.plain)
    own = word.plain == "reward" and is_own(word.value)
    if own or not members or word.text.startswith("~") or not NO_NAME.fullmatch(word.value):
        return None
    leave = "" if word.groups.name == "train" else ", or leave the word out"
    return f"{word.text} names no member of {word.plain}: choose {', '.join(members)}{leave}"


def _no_sum(word: Word) -> str | None:
    """A list of rewards in which a name is missing, or a list of lists."""
    wrong = word.plain == "reward" and word.value.startswith("[")
    return f"{word.text} is no list of rewards: write for instance reward=[brightness,extent]" if wrong else None


def _no_change(word: Word) -> str | None:
    """A part taken away, a second choice of a part, and a key that nothing reads."""
    listed = word.members and word.plain in word.groups.listed
    if word.text.startswith("~") and listed:
        return f"{word.text} takes a part away which every run needs: choose another by {word.plain}=<name>"
    if not word.text.startswith("+"):
        return None
    if listed:
        first = LISTS.get(word.plain, "").partition(",")[0]
        write = f"[{first},{word.value}]" if first else word.value
        return f"{word.text} chooses a second {word.plain}: write {word.plain}={write}"
    top = re.split(r"[./]", word.plain)[0]
    if not word.members and "@" not in word.text and top not in word.groups.keys:
        return f"{word.text} sets {top}, which {word.groups.name} does not read: --help shows its keys"
    return None


def _no_default(word: Word) -> str | None:
    """Options of a part that the command leaves as the run has it."""
    top, dot, _ = word.plain.partition(".")
    if not dot or top.startswith("hydra") or word.text.startswith("+"):
        return None
    if word.groups.name != "train" and top not in word.groups.keys and word.groups.members(top):
        return f"{word.text} is no option of {word.groups.name}, which keeps the run's own {top}"
    return None


def _no_side(word: Word) -> str | None:
    name = word.value
    written = {
        "source": f"{word.text} sets a key to a string: write distribution@source={name}",
        "target": f"{word.text} sets a key to a string: write distribution@target={name}",
        "distribution": f"{word.text} does not say which side: write distribution@source={name} or "
        f"distribution@target={name}",
        "cost": f"{word.text} does not say whose cost: write cost@coupling.cost={name}",
        "weighting": f"{word.text} does not say whose weighting: write weighting@objective.weighting={name}",
        "time_sampler": f"{word.text} does not say whose times: write time_sampler@objective.time_sampler={name}",
    }
    return written.get(word.text.partition("=")[0]) if name else None


def _no_trainer(word: Word) -> str | None:
    moved = next((write for key, write in MOVED.items() if f"{word.plain}.".startswith(f"{key}.")), None)
    return moved and f"{word.text} would have no effect, because flowport sets it: {moved}"


RULES: tuple[Callable[[Word], str | None], ...] = (
    *(_no_pair, _no_trainer, _no_side, _no_member, _no_sum),
    *(_no_change, _no_default),
)


def check_words(words: list[str], groups: Groups) -> None:
    """Check the words of a command line.

    Args:
        words: As Hydra gets them.
        groups: The groups of the command.

    Raises:
        FlowportError: For the first word that would have no effect, or another one than its writer meant.
    """
    for before, text in pairwise(["", *words]):
        of_flag = before.startswith("-") and "=" not in text  # as in --cfg job
        for rule in RULES if text and not text.startswith("-") and not of_flag else ():
            sentence = rule(Word(text, groups))
            if sentence is not None:
                raise FlowportError(sentence)
