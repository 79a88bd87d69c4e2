"""Descriptions of the parts of a flow, from which ``fp.load`` rebuilds it: class names and plain options, no code."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import Any

from omegaconf import ListConfig, OmegaConf
from torch import nn

from flowport import capabilities
from flowport.api.members import FAMILIES, PlainNetwork, member
from flowport.capabilities import Capabilities
from flowport.errors import FlowportError
from flowport.field import Field, LearnedField
from flowport.finetuning.tilted_field import TiltedField
from flowport.network import Network
from flowport.types import ConditionShape, EventShape

Description = dict[str, Any]


def _plain(value: Any) -> bool:
    """Whether JSON holds a value exactly."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def describe(part: object) -> Description | None:
    """Class and options of a part of a flow.

    Args:
        part: An instance that keeps its options under their names.

    Returns:
        None where an option is no plain value.
    """
    names = [p for p in inspect.signature(type(part).__init__).parameters if p not in ("self", "args", "kwargs")]
    options = {name: getattr(part, name) for name in names if name in vars(part)}
    if set(options) != set(names) or not all(map(_plain, options.values())):
        return None
    return {"class": type(part).__name__, "options": options}


def describe_factory(make: Any) -> Description | None:
    """Class and options of a class or partial that is finished with the shapes of a flow.

    Args:
        make: For instance ``partial(MLP, width=64)``; options may be partials themselves.

    Returns:
        None where no config can name it.
    """
    options = make.keywords if isinstance(make, partial) else {}
    made = make.func if isinstance(make, partial) else make
    if not inspect.isclass(made) or (isinstance(make, partial) and make.args) or _factory(made.__name__) is not made:
        return None
    described = {}
    for name, value in options.items():
        value = OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
        if not _plain(value):
            value = describe_factory(value)
            if value is None:
                return None
        described[name] = value
    return {"class": made.__name__, "options": described}


def _factory(name: str) -> type | None:
    """A network, an adapter or an activation of torch by its class name; None for any other name."""
    for family in ("network", "adapter"):
        module, base = FAMILIES[family]
        found = vars(import_module(module)).get(name)
        if inspect.isclass(found) and issubclass(found, base):
            return found
    found = vars(nn.modules.activation).get(name)
    return found if inspect.isclass(found) and issubclass(found, nn.Module) else None


def rebuilt_factory(described: Mapping[str, Any] | None, key: str) -> Callable[..., Any]:
    """The class or partial of a description.

    Args:
        described: Of ``describe_factory``.
        key: The argument of ``fp.load`` that gives the part instead.

    Raises:
        FlowportError: Where there is no description, and for a class that is no network, adapter or activation.
    """
    found = None if described is None else _factory(str(described["class"]))
    if described is None or found is None:
        raise FlowportError(f"this flow has a {key} that its config cannot name: write fp.load(folder, {key}=…)")
    options = {
        name: rebuilt_factory(value, key) if isinstance(value, Mapping) else value
        for name, value in described["options"].items()
    }
    return partial(found, **options)


def rebuilt(family: str, described: Mapping[str, Any] | None, given: Any) -> Any:
    """The part of a description; only classes of the family are looked up.

    Args:
        family: A key of ``FAMILIES``.
        described: Of ``describe``.
        given: The user's own part, which takes precedence.

    Raises:
        FlowportError: Where the part is neither described nor given.
    """
    if given is not None:
        return member(family, given)
    module, base = FAMILIES[family]
    found = None if described is None else vars(import_module(module)).get(str(described["class"]))
    if described is None or not (inspect.isclass(found) and issubclass(found, base)):
        raise FlowportError(f"this flow has a {family} that its config cannot name: write fp.load(folder, {family}=…)")
    return found(**described["options"])


def describe_learned(field: LearnedField, network: Any) -> Description:
    """What a trained field is made of.

    Args:
        field: The field.
        network: What built its network.
    """
    shape = field.network.condition
    assert isinstance(shape, ConditionShape)
    return {
        "kind": "learned",
        "path": describe(field.path),
        "prediction": describe(field.prediction),
        "conditioning": describe(field.conditioning),
        "condition": asdict(shape),
        "network": describe_factory(network),
        "role": type(field.capabilities.role).__name__,
        "score": field.capabilities.score,
    }


def describe_tilted(base: Description, adapter: Any, condition: ConditionShape) -> Description:
    """What a fine-tuned field is made of.

    Args:
        base: The description of its base.
        adapter: What built its adapter.
        condition: What the adapter was built for.
    """
    return {"kind": "tilted", "base": base, "adapter": describe_factory(adapter), "condition": asdict(condition)}


def rebuilt_field(described: Mapping[str, Any], shape: EventShape, given: Mapping[str, Any]) -> Field:
    """The field of a description, with initial weights.

    Args:
        described: Of ``describe_learned`` or ``describe_tilted``.
        shape: D, the shape of one point.
        given: The user's own parts by name.

    Raises:
        FlowportError: For a part that is neither described nor given, and for an unknown role of the noise.
    """
    condition = ConditionShape(**described["condition"])
    if described["kind"] == "tilted":
        base = rebuilt_field(described["base"], shape, given)
        make = given.get("adapter") or rebuilt_factory(described["adapter"], "adapter")
        return TiltedField(base, make(base=base, event_shape=shape, condition=condition))
    role = vars(capabilities).get(str(described["role"]))
    if not (inspect.isclass(role) and issubclass(role, capabilities.NoiseRole)):
        raise FlowportError(f"config.json names the noise role {described['role']}, which does not exist")
    prediction = rebuilt("prediction", described["prediction"], given.get("prediction"))
    network = given.get("network")
    make = rebuilt_factory(described["network"], "network") if network is None else network_factory(network)
    return LearnedField(
        make(event_shape=shape, condition=condition, heads=prediction.heads),
        rebuilt("path", described["path"], given.get("path")),
        prediction,
        rebuilt("conditioning", described["conditioning"], given.get("conditioning")),
        Capabilities(role(), bool(described["score"])),
        condition.step,
    )


def network_factory(network: Any) -> Callable[..., Network]:
    """What builds a network.

    Args:
        network: A config name, a class or partial, or a module f(x, t), which is used as it is.
    """
    return partial(PlainNetwork, module=network) if isinstance(network, nn.Module) else member("network", network)
