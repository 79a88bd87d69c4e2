"""The method and the adapter of a fine-tuning from Python: those that were named, or those that the pilot chooses."""

import inspect
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from flowport.api.members import member
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError, member_name
from flowport.field import Field
from flowport.finetuning.chosen import chosen_method
from flowport.finetuning.method import AutoMethod, FineTuningMethod
from flowport.finetuning.pilot import adapter_for, choose
from flowport.finetuning.probe import PROBED, probe, size
from flowport.finetuning.tuning_points import drawn
from flowport.network.pieces import pieces_of
from flowport.randomness import Randomness
from flowport.reward import Reward
from flowport.tensors import float32_products


def settled(
    field: Field,
    sides: tuple[Distribution, Distribution],
    reward: Reward,
    strength: float,
    method: Any,
    adapter: Any,
    starts: int,
    randomness: Randomness,
    rows: int | None = None,
    network: Any = None,
) -> tuple[FineTuningMethod, Any]:
    """The method, and the adapter as ``member`` takes it; what the pilot chose, and why, is printed.

    Args:
        field: The flow's field.
        sides: Source and target of the flow.
        reward: The reward r.
        strength: λ.
        method: What the user gave: ``"auto"`` or None for the pilot.
        adapter: What the user gave; None: as the method needs.
        starts: Starts of a collection.
        randomness: Of the fine-tuning.
        rows: Points of which networks and reward hold the activations at a time; None for all.
        network: What the user gave, which low-rank updates cannot have; None: nothing.

    Raises:
        FlowportError: For a network beside an adapter that takes none.
    """
    if network is not None and adapter is not None:
        _require_network(member("adapter", adapter))
    if method in (None, "auto"):
        method = AutoMethod()
    if not isinstance(method, AutoMethod):
        chosen = member("method", method)
        return chosen, adapter or adapter_for(member_name(type(chosen), "method"))
    own, n = randomness.under("pilot"), size(method, starts)
    source, target = (side.split("train") for side in sides)
    with float32_products(tf32=False), pieces_of(rows or PROBED, field, reward):
        pair, paths = drawn(source, target, n, own), own.generator("paths")
        signals = probe(field, reward, strength, pair, paths, method.branches, rows)
    if network is not None:
        signals = replace(signals, low_rank=None)
    choice = choose(signals, None if adapter is None else _name(member("adapter", adapter)))
    print(f"flowport: {choice.why} (probe: {signals.calls} evaluations of the reward)", file=sys.stderr)
    return chosen_method(choice), adapter or choice.adapter


def _name(adapter: Any) -> str:
    """The config name of an adapter that the user named, ``"value"`` for each that has a log value."""
    kind = _kind(adapter)
    return "value" if getattr(kind, "has_log_value", False) else member_name(kind, "adapter")


def _kind(adapter: Any) -> Any:
    return adapter.func if isinstance(adapter, partial) else adapter


def takes_network(adapter: Any) -> bool:
    """Whether an adapter is built with a network that it does not have yet.

    Args:
        adapter: The class or partial of an adapter.
    """
    held = adapter.keywords if isinstance(adapter, partial) else {}
    return "network" in inspect.signature(adapter).parameters and "network" not in held


def _require_network(adapter: Any) -> None:
    if not takes_network(adapter):
        raise FlowportError(
            f"adapter={member_name(_kind(adapter), 'adapter')} trains no network that is given beside it: write "
            'adapter="control", or leave network out'
        )
