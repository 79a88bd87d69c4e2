"""Checks of a config's values against the signatures of what they build, before anything is built."""

import inspect
import types
from collections.abc import Mapping
from pydoc import ErrorDuringImport, locate
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from flowport.errors import FlowportError

KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    bool: ("true or false", (bool,)),
    str: ("a word", (str,)),
    types.NoneType: ("null", (types.NoneType,)),
}
"""Type hint -> its name in messages, and the types of YAML that match it."""


def check_values(config: DictConfig, key: str = "") -> None:
    """Check the nodes that have a ``_target_``; what has no plain type hint is left to the class itself.

    Args:
        config: A composed config, which is not changed.
        key: Its place, for messages.

    Raises:
        FlowportError: For an option that a class does not take, and for a value of a kind that its type hint does not
            allow.
    """
    for name in config:
        if not OmegaConf.is_missing(config, name) and isinstance(config[name], ListConfig):
            for number, part in enumerate(config[name]):
                if isinstance(part, DictConfig):
                    check_values(part, f"{key}.{name!s}.{number}".lstrip("."))
        if not OmegaConf.is_missing(config, name) and isinstance(config[name], DictConfig):
            node, place = config[name], f"{key}.{name!s}".lstrip(".")
            if "_target_" in node:
                _check_node(node, place)
            check_values(node, place)


def _check_node(node: DictConfig, key: str) -> None:
    hints, names = _signature(node["_target_"])
    for name in node:
        option = str(name)
        if option.startswith("_") or OmegaConf.is_missing(node, name):
            continue
        if names and option not in names:
            raise FlowportError(f"{key}.{option} is unknown: {key} takes {', '.join(n for n in names if n in node)}")
        check_kind(f"{key}.{option}", node[name], hints.get(option, Any))


def check_kind(key: str, value: Any, hint: Any, least: float | None = None) -> None:
    """Check a plain value.

    Args:
        key: Its key, for messages.
        value: The value.
        hint: A type hint of plain types.
        least: The least number that is allowed, or None.

    Raises:
        FlowportError: For a value of another kind, and for a number below ``least``.
    """
    if not _fits(value, hint):
        raise FlowportError(f"{key}={value} is of the wrong kind: {key} must be {_called(hint)}")
    if least is not None and value is not None and not value >= least:
        raise FlowportError(f"{key}={value} is too small: {key} must be at least {least}")


def _signature(target: Any) -> tuple[Mapping[str, Any], list[str]]:
    """Type hints and option names of a class; no names where it takes any, or cannot be found."""
    try:
        made: Any = locate(str(target))
        hints = get_type_hints(made.__init__)
        parameters = inspect.signature(made).parameters
    except (ErrorDuringImport, AttributeError, NameError, TypeError, ValueError):
        return {}, []
    taken = [p.name for p in parameters.values()]
    return hints, [] if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else taken


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in KINDS:
        return isinstance(value, KINDS[hint][1]) and (hint is bool or not isinstance(value, bool))
    return hint is not Tensor or isinstance(value, ListConfig)  # a plain YAML value is no tensor


def _called(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_called(part) for part in get_args(hint) if part is not Tensor))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    return KINDS[hint][0] if hint in KINDS else str(getattr(hint, "__name__", hint))
