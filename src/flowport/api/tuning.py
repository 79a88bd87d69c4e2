"""Fine-tune a flow by a reward from Python, in memory."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch

from flowport.api.fit import default_network, train_here
from flowport.api.flow import Flow, flow_of
from flowport.api.members import member
from flowport.api.piloting import settled, takes_network
from flowport.api.results import OwnResults
from flowport.api.saving import describe_tilted, network_factory
from flowport.api.tuned import Tuning
from flowport.conditioning import TargetLabelConditioning
from flowport.coupling import IndependentCoupling
from flowport.data.datamodule import PairDataModule
from flowport.data.pairing import UnpairedPairing
from flowport.data.placement import StreamingPlacement
from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.finetuning.tilt_mass import warn_of_mass
from flowport.network.pieces import pieces_of, set_piece_rows
from flowport.randomness import Randomness
from flowport.reward import DecodedReward, FromFileReward, Reward, SumReward, adapted, from_code
from flowport.reward.plain import name_of
from flowport.run.build import Parts
from flowport.run.reward_words import FORMS, PROGRAM, is_own, numbered, word_name
from flowport.training.finetune_module import FineTuneModule
from flowport.training.scheduler import CosineScheduler

RESULTS = 256
"""Results of a loaded flow that stand for its target."""


def finetune(
    flow: Flow,
    reward: Any,
    *,
    strength: float = 1.0,
    method: Any = "auto",
    adapter: Any = None,
    network: Any = None,
    steps: int = 600,
    starts: int = 256,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
    rows: int | None = None,
) -> Flow:
    """Fine-tune a flow towards the tilted law p1(x) e^{strength · r(x)} / Z, with an adapter beside the frozen base.

    ``tuned = fp.finetune(flow, reward, strength=2.0)``; ``tuned.rewards`` says what the reward was before and after.

    Args:
        flow: A flow from Gaussian noise with independent coupling, or a bridge that sees its start.
        reward: r(x1) -> (N,), or r(x1, condition), in nats: a function, a module, a TorchScript file ``"judge.pt"``,
            ``"file.py:Name"``, ``"package.module.Name"``, or a reward of ``flowport.reward`` or its name. Several are a
            list, or a dictionary by name; each may be a pair (reward, weight), and one of weight 0 is only watched.
        strength: λ.
        method: ``"auto"``: a short probe of flow and reward chooses; what was chosen, and why, is printed.
        adapter: What is trained; None: as the method needs.
        network: Of the adapters control and value; by default an MLP for vectors and a U-Net for images.
        steps: Optimiser steps.
        starts: Paths per rollout.
        lr: Learning rate of Adam.
        seed: Of everything that is drawn.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        progress: Whether a progress bar is shown; by default in a terminal.
        rows: Points of which networks and reward hold the activations at a time; None for all.

    Raises:
        FlowportError: For a flow whose tilt is not defined, with what to change, for a network beside an adapter that
            takes none, and for a reward that cannot be evaluated, or is not finite.
    """
    if flow.source is None:
        raise FlowportError("a loaded flow does not hold its source's data, where fine-tuning starts: fit it again")
    source, target = flow.source, flow.target or _results(flow, rows)
    wanted = reward_of(_copied(reward), flow.target)
    if target.modality.surface() is not target.modality:
        wanted = DecodedReward(wanted, target.modality)
    with pieces_of(rows, flow.field, wanted):  # the flow and its reward are the caller's
        wanted.check(source, target)
        randomness, sides = Randomness(seed).under("fine-tuning"), (source, target)
        chosen, adapter = settled(
            flow.field, sides, wanted, strength, method, adapter, starts, randomness, rows, network
        )
        change = member("adapter", adapter)
        if takes_network(change):
            make = default_network(flow.event_shape) if network is None else network_factory(network)
            change = partial(change, network=make)
        module = FineTuneModule(
            source,
            target,
            flow.field,
            change,
            chosen,
            wanted,
            strength,
            partial(torch.optim.Adam, lr=lr),
            CosineScheduler,
            randomness,
            rows=rows,
        )
        module.says_peak = True
        if not flow.field.conditioning.sees_source:
            warn_of_mass(wanted, strength, target)
        data = PairDataModule(
            UnpairedPairing(source, target),
            IndependentCoupling(),
            randomness.under("data"),
            starts,
            validation_items=starts,
            placement=StreamingPlacement(),
            repeat=chosen.steps_per_rollout,
        )
        train_here(module, data, steps, device, progress)
        set_piece_rows(module.ema, None)
    condition = flow.field.conditioning.shape(source, target)
    description = None if flow.description is None else describe_tilted(flow.description, change, condition)
    tuned = flow_of(module.ema, sides, description, seed)
    place = "cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda"
    if flow.target is None:
        tuned = replace(tuned, target=None, class_names=flow.class_names)
    rows = rows or module.rows or starts
    return replace(tuned, tuning=Tuning(module.ema, wanted, strength, source, target, randomness, place, rows))


def _results(flow: Flow, rows: int | None) -> Distribution:
    """What stands for the target of a flow that does not hold it: results of the flow."""
    if isinstance(flow.field.conditioning, TargetLabelConditioning):
        raise FlowportError("a loaded flow does not hold its target's labels, which it is told: fit it again")
    with pieces_of(rows, flow.field):
        return OwnResults(flow.sample(RESULTS, steps=20), flow.modality)


def _copied(word: Any) -> Any:
    """What a user wrote, each reward copied, since one takes the modality of its flow and moves to its device."""
    if isinstance(word, Mapping):
        return {name: _copied(item) for name, item in word.items()}
    if isinstance(word, list | tuple):
        return type(word)(map(_copied, word))
    return deepcopy(word) if isinstance(word, Reward) else word


def reward_of(word: Any, target: Distribution | None) -> Reward:
    """The reward that a user wrote.

    Args:
        word: As of ``finetune``.
        target: The target, of whose classes a classifier is trained where a reward needs one; None where unknown.

    Raises:
        FlowportError: For what is no reward, or cannot be built.
    """
    if isinstance(word, Mapping):
        named = {str(name): _weighed(item) for name, item in word.items()}
    elif isinstance(word, list | tuple) and not (isinstance(word, tuple) and _weight(word) is not None):
        items = [_weighed(item) for item in word]
        named = dict(zip(numbered([_name(item) for item, _ in items]), items, strict=True))
    else:
        item, weight = _weighed(word)
        one = _one(item, target)
        return one if weight == 1 else SumReward({_name(item): one}, {_name(item): weight})
    return SumReward({k: _one(v, target) for k, (v, _) in named.items()}, {k: w for k, (_, w) in named.items()})


def _weight(item: Any) -> float | None:
    """The weight of a pair (reward, weight); None for anything else."""
    pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], int | float)
    return float(item[1]) if pair else None


def _weighed(item: Any) -> tuple[Any, float]:
    weight = _weight(item)
    return (item, 1.0) if weight is None else (item[0], weight)


def _name(item: Any) -> str:
    """What a term of a sum is called."""
    if isinstance(item, Reward):
        return item.called
    if isinstance(item, str | FilePath):
        return word_name(str(item))
    return name_of(item)


def _one(item: Any, target: Distribution | None) -> Reward:
    """One reward."""
    if isinstance(item, str | FilePath):
        word = str(item)
        if PROGRAM.fullmatch(word):
            return FromFileReward(word)
        if is_own(word):
            return from_code(word)
        item = _known(word)
    if not inspect.isclass(item):
        return adapted(item)
    make: Any = item
    missing = [p.name for p in inspect.signature(item).parameters.values() if p.default is p.empty and p.kind < 2]
    if missing == ["classifier"]:
        if target is None or not target.classes:
            raise FlowportError(
                f"reward={name_of(item)} reads a classifier of the target's classes, and this flow's target has none: "
                f"give {item.__name__}(classifier=<a module of yours>)"
            )
        return adapted(make(classifier=Parts().classifier(target)[0]))
    if missing:
        raise FlowportError(f"reward={name_of(item)} needs {', '.join(missing)}: write {item.__name__}({missing[0]}=…)")
    return adapted(make())


def _known(word: str) -> type:
    """The class of ``flowport.reward`` of a config name."""
    from flowport import reward as family

    named = {name_of(c): c for c in vars(family).values() if inspect.isclass(c) and not inspect.isabstract(c)}
    known = {name: c for name, c in named.items() if issubclass(c, Reward)}
    if word not in known:
        names = ", ".join(sorted(known))
        raise FlowportError(f"reward={word} does not exist: choose {names}, or {FORMS}, or a function")
    return known[word]
