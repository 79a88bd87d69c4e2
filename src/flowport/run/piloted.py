"""``method=auto``: the probe of a base, the choice that follows from it, and the config of what was chosen."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowport.errors import FlowportError, member_name
from flowport.finetuning.method.auto import AutoMethod
from flowport.finetuning.method.base import require_method
from flowport.finetuning.pilot import Choice, Signals, adapter_for, choose
from flowport.finetuning.probe import PROBED, probe, size
from flowport.finetuning.tuning_points import drawn
from flowport.network.pieces import pieces_of
from flowport.randomness import Randomness
from flowport.run.build import Parts, make
from flowport.run.cli import composed
from flowport.run.config_checks import check_values
from flowport.run.device import device_of
from flowport.run.restore import restore
from flowport.run.run_folder import RunFolder
from flowport.tensors import float32_products

logger = logging.getLogger(__name__)
STATED = ("numbers", "effective", "kl", "kl_se", "signal", "signal_se", "calls")
"""Numbers of a probe that a run keeps; the signal only where it was measured, others where they are not withheld."""


def piloted(folder: RunFolder, overrides: DictConfig, parts: Parts) -> tuple[DictConfig, dict[str, Any]]:
    """The overrides of a fine-tuning with its method and its adapter settled, and what the pilot measured.

    A method or an adapter that the user named stays. ``adapter: null`` is the method's own adapter.

    Args:
        folder: The base.
        overrides: The composed config of the command, which is not changed.
        parts: What the command has built.

    Returns:
        The overrides, and the numbers and words of the choice by name; none where the user named the method.

    Raises:
        FlowportError: For a base or a reward that cannot be tuned, and for a method that cannot train the adapter.
    """
    settled, stated = overrides.copy(), dict[str, Any]()
    OmegaConf.set_struct(settled, False)
    node, named = overrides.get("adapter"), _named(overrides.get("adapter"))
    auto = make(overrides.method)
    if not isinstance(auto, AutoMethod):
        method = member_name(type(require_method(auto)), "method")
        settled.adapter = _adapter(node, named or adapter_for(method))
        return settled, stated
    began = time.perf_counter()
    signals = _probed(folder, overrides, parts, auto)
    if node:  # options of a network, which low-rank updates do not have
        signals = replace(signals, low_rank=None)
    choice = choose(signals, named)
    settled.method, settled.adapter = _method(choice), _adapter(node, choice.adapter)
    seconds = time.perf_counter() - began
    logger.info("%s (probe: %d evaluations of the reward, %.1f s)", choice.why, signals.calls, seconds)
    return settled, {"method": choice.method, "adapter": choice.adapter, "why": choice.why} | _stated(signals)


def reported(entry: DictConfig) -> dict[str, Any]:
    """pilot/<name> of the numbers and names that an entry of ``tuning`` keeps of its pilot, without its sentence.

    Args:
        entry: The entry; one whose method the user named has none.
    """
    held = OmegaConf.to_container(entry.get("pilot") or OmegaConf.create({}))
    assert isinstance(held, dict)
    return {f"pilot/{name!s}": value for name, value in held.items() if name != "why"}


def _stated(signals: Signals) -> dict[str, float | str]:
    """The numbers to three digits, equal when the same command measures them again, or why one is withheld."""
    withheld = signals.withheld()
    hidden = {*withheld, *({"signal"} if signals.signal is None else ())}
    found = {name: vars(signals)[name] for name in STATED if name.removesuffix("_se") not in hidden}
    numbers = {name: v if isinstance(v, int) else float(f"{v:.3g}") for name, v in found.items()}
    return numbers | {f"{name}_withheld": reason for name, reason in withheld.items()}


@float32_products(tf32=False)
def _probed(folder: RunFolder, overrides: DictConfig, parts: Parts, auto: AutoMethod) -> Signals:
    """What the probe measures of the run in ``folder``, on the device on which it will be tuned."""
    words = {key: overrides.get(key) for key in ("weights", "device", "threads")}
    run = restore(folder, OmegaConf.create(words), parts)
    device = device_of(run.config.trainer, overrides)
    base = run.module.ema.to(device).eval()
    base.capabilities.role.require_tilt()
    reward = parts.reward(overrides.reward, run.module.target)
    reward.check(run.module.source, run.module.target)
    randomness = Randomness(overrides.seed).under("pilot")
    train = run.data.placed(device).split("train")
    pair = drawn(train.source, train.target, size(auto, overrides.starts), randomness)
    generator = randomness.generator("paths")
    strength, rows = float(overrides.strength), overrides.get("rows")
    with pieces_of(rows or PROBED, base, reward):
        return probe(base, reward.to(device), strength, pair, generator, auto.branches, rows)


def _named(node: DictConfig | None) -> str | None:
    """The config name of an adapter that the user named, ``"value"`` for each that has a log value; None for none."""
    if node is None or "_target_" not in node:
        return None
    check_values(OmegaConf.create({"adapter": node}))
    kind = make(OmegaConf.merge(node, {"_partial_": True})).func
    return "value" if getattr(kind, "has_log_value", False) else member_name(kind, "adapter")


def _adapter(node: DictConfig | None, name: str) -> DictConfig:
    """The node of an adapter: the user's, or the one of a config name with what the user said of its network."""
    if node is not None and "_target_" in node:
        return node
    chosen, said = composed("finetune", [f"adapter={name}"]).adapter, node or OmegaConf.create({})
    if extra := sorted(set(map(str, said)) - set(map(str, chosen))):
        raise FlowportError(
            f"adapter.{extra[0]} is no option of adapter={name}, which the method takes: say adapter=<name> too"
        )
    plain = OmegaConf.create(OmegaConf.to_container(chosen, resolve=True))
    merged = OmegaConf.merge(plain, said)
    assert isinstance(merged, DictConfig)
    return merged


def _method(choice: Choice) -> DictConfig:
    """The node of a chosen method, as the command line would compose it."""
    words = [f"method={choice.method}", *_words("method", choice.options)]
    return composed("finetune", words).method


def _words(group: str, options: Mapping[str, Any]) -> list[str]:
    return [f"{group}.{name}={value}" for name, value in options.items()]
