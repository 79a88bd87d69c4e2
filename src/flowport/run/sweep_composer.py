"""Configs of the jobs of a sweep, of which those that differ in plain values alone are composed from files once.

Hydra reads and merges every file anew for each job, a tenth of a second that a hundred small jobs pay a hundred times.
"""

from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import pairwise
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PLAIN = (bool, int, float, str, type(None))
"""Types of values that replace a value and nothing else."""
KEPT = 32
"""Largest number of compositions that are held."""
READ = 10_000
"""Largest number of words that are held as they were parsed."""


class SweepComposer:
    """Hydra's loader of configs, of which ``load_sweep_config`` composes what is new and no more.

    Two jobs whose words differ in values of keys alone, as in ``seed``, share every choice of a file, so that the
    config of one becomes that of the other by setting the values. All else is passed on to Hydra's loader.

    Args:
        loader: Hydra's.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.parser = OverridesParser.create()
        self.parsed: dict[str, Override] = {}
        self.composed: dict[tuple[Any, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"loader": self.loader}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["loader"])  # type: ignore[misc]

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """The config of a job, as Hydra composes it.

        Args:
            master_config: Of the sweep.
            sweep_overrides: Words of the job.
        """
        words = list(sweep_overrides)
        parsed = [self._parsed(word) for word in words]
        chosen = set(master_config.hydra.runtime.choices)
        plain = [_is_plain(word) and word.key_or_group not in chosen for word in parsed]
        shared = (word.key_or_group if own else word.input_line for word, own in zip(parsed, plain, strict=True))
        key = (id(master_config), *shared)
        values = [word for word, own in zip(parsed, plain, strict=True) if own]
        held = self.composed.get(key)
        if held is not None and _independent(parsed) and _takes(held, values):
            with suppress(OmegaConfBaseException):  # a value of the wrong type, which Hydra says better
                return _with_values(held, master_config, parsed, values)
        found: DictConfig = self.loader.load_sweep_config(master_config, words)
        if held is None:
            if len(self.composed) >= KEPT:
                self.composed.clear()
            self.composed[key] = deepcopy(found)
        return found

    def _parsed(self, word: str) -> Override:
        if word not in self.parsed:
            if len(self.parsed) >= READ:
                self.parsed.clear()
            self.parsed[word] = self.parser.parse_override(word)
        return self.parsed[word]


def _is_plain(word: Override) -> bool:
    """Whether a word replaces a value, as far as the word alone tells."""
    keys = word.package is None and "/" not in word.key_or_group and word.key_or_group != "hydra.searchpath"
    return keys and word.type == OverrideType.CHANGE and isinstance(word.value(), PLAIN)


def _independent(words: Sequence[Override]) -> bool:
    """Whether no word sets what is, or is part of, what another one sets, so that their order says nothing."""
    keys = sorted(word.key_or_group + "." for word in words)
    return not any(later.startswith(earlier) for earlier, later in pairwise(keys))


def _takes(config: DictConfig, values: Sequence[Override]) -> bool:
    """Whether every one of these words replaces a value of a config, and none of its parts."""
    chosen = config.hydra.runtime.choices
    for word in values:
        if word.key_or_group in chosen:
            return False
        parent, _, name = word.key_or_group.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if not isinstance(node, DictConfig) or name not in node.keys():  # noqa: SIM118 (a missing value is a key)
            return False
        if isinstance(node._get_node(name), Container):
            return False
    return True


def _with_values(
    held: DictConfig, master: DictConfig, words: Sequence[Override], values: Sequence[Override]
) -> DictConfig:
    """A copy of a config with values set, and with the words of its own."""
    config = deepcopy(held)
    OmegaConf.set_readonly(config.hydra, False)
    for word in values:
        OmegaConf.update(config, word.key_or_group, word.value(), merge=True)
    own = [word for word in words if not word.is_hydra_override()]
    config.hydra.overrides.task = [word.input_line for word in own]
    others = [word.input_line for word in words if word.is_hydra_override()]
    config.hydra.overrides.hydra = [*master.hydra.overrides.hydra, *others]
    style = config.hydra.job.config.override_dirname
    config.hydra.job.override_dirname = get_overrides_dirname(
        overrides=own, exclude_keys=style.exclude_keys, item_sep=style.item_sep, kv_sep=style.kv_sep
    )
    OmegaConf.copy_cache(from_config=master, to_config=config)
    return config
