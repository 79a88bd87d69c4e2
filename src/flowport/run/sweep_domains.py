"""Ordered pairs of domains of a sweep, as overrides of its jobs."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flowport.errors import FlowportError

FORM = "hydra.sweeper.domains={<group>: {<name>: {distribution: <member>, <option>: <value>}}}"


def pair_words(domains: Mapping[str, Any] | None) -> list[list[str]]:
    """The overrides of every ordered pair of two domains of one group; one empty list without domains.

    A domain is a member of the family ``distribution`` with its options. Its pair is told as ``pair.source`` and
    ``pair.target``.

    Args:
        domains: Domains by their names, by group; a domain or a group that is null is left out.

    Raises:
        FlowportError: For what is no such mapping, a group of one, and a name that two groups have.
    """
    if not domains:
        return [[]]
    groups = {str(group): _group(str(group), held) for group, held in domains.items() if held is not None}
    names = [name for held in groups.values() for name in held]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise FlowportError(f"hydra.sweeper.domains has {double[0]} in two groups: give every domain its own name")
    return [
        [*_side("source", a, held[a]), *_side("target", b, held[b])]
        for held in groups.values()
        for a in held
        for b in held
        if a != b
    ]


def _group(group: str, held: Any) -> dict[str, Mapping[str, Any]]:
    named = held.items() if isinstance(held, Mapping) else ()
    found = {str(name): domain for name, domain in named if domain is not None}
    if len(found) < 2:
        raise FlowportError(
            f"hydra.sweeper.domains.{group} needs two domains or more, between which flows are trained: {FORM}"
        )
    for name, domain in found.items():
        if not isinstance(domain, Mapping) or not isinstance(domain.get("distribution"), str):
            raise FlowportError(f"hydra.sweeper.domains.{group}.{name} names no distribution: {FORM}")
    return found


def _side(side: str, name: str, domain: Mapping[str, Any]) -> list[str]:
    options = {key: value for key, value in domain.items() if key != "distribution"}
    words = [f"pair.{side}={written(name)}", f"distribution@{side}={domain['distribution']}"]
    return words + [f"{side}.{key}={written(value)}" for key, value in _flat(options)]


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def written(value: Any) -> str:
    """A value as Hydra's override grammar reads it.

    Args:
        value: A number, a text, a truth value, None, or a list of these.
    """
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][\w-]*", text) and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)  # backslashes are literal but before a quote
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"
