"""Checks of a config's values against the signatures of what they build, before anything is built."""

import inspect
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor
from torch.optim import Optimizer

from flowport.conditioning import Conditioning
from flowport.cost import Cost
from flowport.coupling import Coupling
from flowport.data.datamodule import PairDataModule
from flowport.data.pairing import Pairing
from flowport.data.space import Space
from flowport.distribution.base import Distribution
from flowport.errors import (
    Amount,
    Count,
    FlowportError,
    Positive,
    Range,
    SampleSize,
    check_range,
    ranged_hints,
)
from flowport.finetuning.discretisation import Discretisation
from flowport.modality import Modality
from flowport.network import Network
from flowport.objective import Objective
from flowport.objective.time_sampler import TimeSampler
from flowport.objective.weighting import Weighting
from flowport.path import Path
from flowport.reward import Reward
from flowport.sampling.grid import Grid
from flowport.sampling.solver import Solver
from flowport.sampling.volatility import Volatility

BYTES = 40
"""Memory that a point of one coordinate needs at least, with the copies that a pipeline makes."""
MOST = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // BYTES
"""Largest number of points that this machine's memory can hold."""
Points = Annotated[int, Range(least=1, most=MOST)]

KEYS: dict[str, Any] = {
    "seed": Annotated[int, Range(least=0, most=2**63 - 1)] | None,
    "threads": Annotated[int, Range(least=1, most=4096)] | None,
    "capture": bool,
    "ema_decay": Annotated[float, Range(least=0, most=1)],
    "evaluation_items": Points | None,
    "checkpoint_every": Count,
    "checkpoint_minutes": Positive | None,
    "optimise": str | Sequence[str] | None,
    "profile": bool,
    "gallery": bool,
    "jobs": Annotated[int, Range(least=1, most=4096)],
    "restart": bool,
    "run": str | None,
    "trust": bool,
    "device": str | None,
    "certified": SampleSize,
    "starts": Points,
    "adjoint_snr": bool,
    "rounds": Count,
    "rows": Count | None,
    "checkpointing": bool,
    "trajectories": Mapping[str, Any] | None,
    "trajectories.dtype": Literal["bfloat16", "float16"] | None,
    "trajectories.device": Literal["cpu"] | None,
    "pairs": Points,
    "pair.source": str | None,
    "pair.target": str | None,
    "steps": Count | None,
    "nfe": Count | None,
    "input": str | None,
    "output": str | None,
    "overwrite": bool,
    "samples": Count,
    "points": Points | None,
    "fresh": Points,
    "pretraining": Amount,
    "steps_per_rollout": Count | None,
    "draw": str | None,
    "watch.every": Count | None,
    "watch.items": SampleSize | None,
    "stop.energy": Positive | None,
    "boosting.rounds": Amount,
    "boosting.points": Annotated[int, Range(most=MOST)],
    "boosting.steps": Count,
    "data.batch": Annotated[int, Range(most=MOST)],
    "data.validation_items": Points,
}
"""Keys of the commands that no class declares, and sizes that the memory bounds: type and range."""

PARTS: dict[str, type] = {
    "source": Distribution,
    "target": Distribution,
    "space": Space,
    "pairing": Pairing,
    "coupling": Coupling,
    "path": Path,
    "network": Network,
    "conditioning": Conditioning,
    "objective": Objective,
    "optimizer": Optimizer,
    "data": PairDataModule,
    "solver": Solver,
    "grid": Grid,
    "volatility": Volatility,
}
"""Nodes of every run: key -> base class."""

PARTIAL = ("pairing", "network", "optimizer", "data")
"""Parts that are finished with what the others determine (``_partial_: true``)."""
FILLED = ("adapter.network", "guidance.reward", "solver.reward")
"""Parts that may be null in a command's config, because the run fills them in."""

GROUPS: dict[type, str] = {
    **{base: key for key, base in PARTS.items() if base is not Distribution},
    Cost: "cost",
    Weighting: "weighting",
    TimeSampler: "time_sampler",
    Modality: "modality",
    Reward: "reward",
    Discretisation: "discretisation",
}
"""Base class -> the config group of its members."""


KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    bool: ("true or false", (bool,)),
    str: ("a word", (str,)),
    types.NoneType: ("null", (types.NoneType,)),
}
"""Type hint -> its name in messages, and the types of YAML that match it."""


def check_keys(config: DictConfig) -> None:
    """Check the plain keys of a command.

    Args:
        config: The composed config of a command, or that of a run.

    Raises:
        FlowportError: For a value of the wrong kind or out of range.
    """
    for key, hint in KEYS.items():
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if isinstance(node, DictConfig) and name in node and not OmegaConf.is_missing(node, name):
            check_kind(key, node[name], hint)


def check_parts(config: DictConfig) -> None:
    """Check that a run's config has every part, and each of the right family.

    Args:
        config: The config of a run.

    Raises:
        FlowportError: For a part that is missing, is no part, or belongs to another family.
    """
    for key in ("seed", "ema_decay", "evaluation_items", "checkpoint_every"):
        if config.get(key) is None:
            raise FlowportError(f"{key} is missing or null: the config of a run has a number there")
    for key, base in PARTS.items():
        value = config.get(key)
        if not (isinstance(value, DictConfig) and value.get("_target_")):
            raise FlowportError(f"{key}={value} is no part: the config of a run has a _target_ there")
        check_kind(key, value, base)
        if bool(value.get("_partial_")) != (key in PARTIAL):
            raise FlowportError(f"{key}._partial_ must be {str(key in PARTIAL).lower()}")
    _check_containers(config)


def _check_containers(config: DictConfig) -> None:
    """Check what holds options, metrics and the record of earlier runs."""
    for key, kind, name in (
        ("trainer", DictConfig, "options"),
        ("metric", DictConfig, "metrics by name"),
        ("logger", DictConfig, "loggers by name"),
        ("callback", DictConfig, "callbacks by name"),
        ("tuning", ListConfig, "entries that flowport writes"),
        ("reflow", ListConfig, "entries that flowport writes"),
    ):
        held = config.get(key)
        if held is None and key != "trainer":
            continue
        if not isinstance(held, kind) or not (key == "trainer" or _holds_nodes(held)):
            raise FlowportError(f"{key}={held} must hold {name}")
    for number, entry in enumerate(config.get("tuning") or []):
        if lost := {"reward", "method", "adapter", "strength"} - set(entry):
            raise FlowportError(f"tuning.{number} lacks {min(lost)}: flowport writes these entries")
    if config.trainer.get("_partial_") is not True:
        raise FlowportError("trainer._partial_ must be true")


def _holds_nodes(held: DictConfig | ListConfig) -> bool:
    values = held.values() if isinstance(held, DictConfig) else list(held)
    return all(isinstance(value, DictConfig) for value in values)


def check_values(config: DictConfig, key: str = "") -> None:
    """Check the nodes that have a ``_target_`` against the signatures of their classes.

    Args:
        config: A composed config, which is not changed.
        key: Its place, for messages.

    Raises:
        FlowportError: For a class that does not exist, an option that it does not take, and a value that its type hint
            or its range does not allow.
    """
    for name in config:
        if OmegaConf.is_missing(config, name):
            continue
        value, place = config[name], f"{key}.{name!s}".lstrip(".")
        nodes = [(place, value)] if isinstance(value, DictConfig) else []
        if isinstance(value, ListConfig):
            nodes = [(f"{place}.{n}", part) for n, part in enumerate(value) if isinstance(part, DictConfig)]
        for at, node in nodes:
            if "_target_" in node:
                _check_node(node, at)
            check_values(node, at)


def _check_node(node: DictConfig, key: str) -> None:
    if node["_target_"] == "lightning.Trainer":  # whose options trainer_options checks
        return
    made = _located(node["_target_"])
    if made is None:
        raise FlowportError(f"{key}._target_={node['_target_']} does not exist")
    hints, names = _signature(made)
    for name in node:
        option = str(name)
        if option in ("_target_", "_partial_", "_convert_") or OmegaConf.is_missing(node, name):
            continue
        if node[name] is None and f"{key}.{option}" in FILLED:
            continue
        if option.startswith("_"):
            raise FlowportError(f"{key}.{option} is not supported: write the options of {key} by name")
        if names is not None and option not in names:
            known = [n for n in names if n in node] or names
            raise FlowportError(f"{key}.{option} is unknown: {key} takes {', '.join(known) or 'no options'}")
        check_kind(f"{key}.{option}", node[name], hints.get(option, Any))


def check_kind(key: str, value: Any, hint: Any, least: float | None = None) -> None:
    """Check a value.

    Args:
        key: Its key, for messages.
        value: The value.
        hint: A type hint of plain types, of parts, or of sequences and mappings of these.
        least: The least number that is allowed, or None.

    Raises:
        FlowportError: For a value of another kind, and for a number out of range or below ``least``.
    """
    if isinstance(value, DictConfig) and isinstance(hint, type) and not issubclass(hint, dict):
        made = _located(value.get("_target_"))
        known = inspect.isclass(made) and made.__module__.startswith(("flowport.", "torch."))  # not the user's own
        if known and not issubclass(made, hint):
            raise FlowportError(f"{key}._target_={value._target_} is of another family{_instead(key, '', hint)}")
    if get_origin(hint) in (dict, Mapping) and isinstance(value, DictConfig):
        for name in value:
            check_kind(f"{key}.{name!s}", value[name], get_args(hint)[1])
    if not _fits(value, hint):
        shown = "null" if value is None else value
        what = _called(hint)
        raise FlowportError(f"{key}={shown} is of the wrong kind: {key} must be {what}{_instead(key, value, hint)}")
    plain = OmegaConf.to_container(value, resolve=True) if isinstance(value, ListConfig) else value
    check_range(key, plain, hint)
    if least is not None and value is not None and not value >= least:
        raise FlowportError(f"{key}={value} is too small: {key} must be at least {least}")


def _located(target: Any) -> Any:
    try:
        return get_object(str(target))  # pydoc.locate would take a signal for a failed import
    except Exception:
        return None


def _signature(made: Any) -> tuple[Mapping[str, Any], list[str] | None]:
    """Type hints and option names of a class; None where it takes any, or cannot be found."""
    hints = ranged_hints(made.__init__ if inspect.isclass(made) else made)
    try:
        parameters = inspect.signature(made).parameters
    except (TypeError, ValueError):
        return hints, None
    taken = [p.name for p in parameters.values()]
    return hints, None if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else taken


def _plain(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _fits(value: Any, hint: Any) -> bool:
    hint = _plain(hint)
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any or origin in (Union, types.UnionType):
        return hint is Any or any(_fits(value, part) for part in parts)
    if hint in KINDS:
        return isinstance(value, KINDS[hint][1]) and (hint is bool or not isinstance(value, bool))
    return value in parts if origin is Literal else _holds(value, hint, origin, parts)


def _holds(value: Any, hint: Any, origin: Any, parts: tuple[Any, ...]) -> bool:
    """Whether a list, a mapping or a part fits its hint."""
    if origin in (list, tuple, Sequence) or hint is Tensor:  # a plain YAML value is no tensor
        return isinstance(value, ListConfig) and all(_fits(part, parts[0] if parts else Any) for part in value)
    if origin in (dict, Mapping):
        return isinstance(value, DictConfig) and all(_fits(value[name], parts[1]) for name in value)
    if origin is Callable or inspect.isclass(hint):
        return isinstance(value, DictConfig) and "_target_" in value
    return True


def _called(hint: Any) -> str:
    hint = _plain(hint)
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_called(part) for part in parts if part is not Tensor))
    if origin in (list, tuple, Sequence):
        return "a list" if parts[0] is Any else f"a list of {_called(parts[0])} each"
    names = {Literal: " or ".join(map(str, parts)), dict: "a mapping", Mapping: "a mapping"}
    return KINDS[hint][0] if hint in KINDS else names.get(origin, "a part with a _target_")


def _instead(key: str, value: Any, hint: Any) -> str:
    """What to write for a part, where the group of its members is known."""
    for part in (hint, *get_args(hint)):
        group = GROUPS.get(part) if inspect.isclass(part) else None
        if group is not None:
            member = value if isinstance(value, str) and value.isidentifier() else "<name>"
            place = group if key == group else f"{group}@{key}"
            return f": write {place}={member}, with a name of configs/{group}"
    return ""
