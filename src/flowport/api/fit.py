"""Train flows and fine-tune them, from Python and in memory."""

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning import Trainer

from flowport.api.flow import Flow, flow_of
from flowport.api.members import FunctionReward, Points, distribution, member
from flowport.api.piloting import settled
from flowport.api.saving import describe_learned, describe_tilted, network_factory
from flowport.coupling import IndependentCoupling
from flowport.data.agreement import agreed
from flowport.data.datamodule import PairDataModule
from flowport.data.pairing import UnpairedPairing
from flowport.data.placement import StreamingPlacement
from flowport.distribution import Gaussian
from flowport.errors import FlowportError
from flowport.field import LearnedField
from flowport.network import MLP, Network, PatchUNet, SetTransformer
from flowport.path import FunctionsPath
from flowport.randomness import Randomness
from flowport.reward import Reward
from flowport.training.compose import compose
from flowport.training.finetune_module import FineTuneModule
from flowport.training.fitting import train_in_memory
from flowport.training.scheduler import CosineScheduler
from flowport.types import EventShape


def _train(module: Any, data: Any, steps: int, device: str, progress: bool | None) -> None:
    """Train in memory and bring the module back to the CPU."""
    trainer = partial(Trainer, accelerator=device, devices=1, enable_model_summary=False)
    train_in_memory(trainer, module, data, steps, sys.stderr.isatty() if progress is None else progress)
    module.cpu()


def fit(
    source: Points,
    target: Points,
    *,
    steps: int = 2000,
    coupling: Any = None,
    path: Any = "linear",
    prediction: Any = None,
    conditioning: Any = "unconditional",
    network: Any = None,
    batch: int = 256,
    lr: float = 1e-3,
    ema_decay: float = 0.999,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
) -> Flow:
    """Train a flow from a source to a target by flow matching.

    Args:
        source: See ``Points``; ``fp.Gaussian(d)`` for noise.
        target: Likewise.
        steps: Optimiser steps.
        coupling: By default independent from standard Gaussian noise, so that the flow has a score, and exact minibatch
            optimal transport otherwise; what was chosen is printed.
        path: Also three functions (alpha, beta, gamma or None) of t.
        prediction: What the network predicts; None: velocity, or edm on a path whose points grow.
        conditioning: What the network sees beside x and t.
        network: Also a module f(x, t); by default an MLP for vectors and a U-Net for images.
        batch: Pairs per step.
        lr: Learning rate of Adam, with a cosine schedule.
        ema_decay: Of the moving average, whose weights the flow uses.
        seed: Of everything that is drawn.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        progress: Whether a progress bar is shown; by default in a terminal.

    Raises:
        FlowportError: For parts that do not fit together, with what to change.
    """
    sides = agreed(distribution(source, "source"), distribution(target, "target"))
    noise = sides[0].standard_gaussian
    if coupling is None:
        coupling = "independent" if noise else "exact"
        why = "standard Gaussian noise: the flow has a score" if noise else "the source is no standard Gaussian noise"
        print(f"flowport: coupling={coupling} ({why})", file=sys.stderr)
    if isinstance(path, tuple | list):
        path = FunctionsPath(*path)
    make = _default_network(sides[1].event_shape) if network is None else network_factory(network)
    module, data = compose(
        *sides,
        pairing=UnpairedPairing,
        coupling=member("coupling", coupling),
        path=member("path", path),
        prediction=member("prediction", prediction),
        conditioning=member("conditioning", conditioning),
        network=make,
        optimizer=partial(torch.optim.Adam, lr=lr),
        scheduler=CosineScheduler,
        data=partial(_datamodule, batch=batch),
        ema_decay=ema_decay,
        seed=seed,
    )
    _train(module, data, steps, device, progress)
    assert isinstance(module.ema, LearnedField)
    return flow_of(module.ema, sides, describe_learned(module.ema, make), seed)


def _default_network(shape: EventShape) -> Callable[..., Network]:
    """The network of points of a shape: vectors, clouds, images."""
    makes: dict[int, Callable[..., Network]] = {1: partial(MLP, width=128), 2: SetTransformer}
    return makes.get(len(shape), PatchUNet)


def _datamodule(**parts: Any) -> PairDataModule:
    """Data that stay on the host, whatever their size."""
    return PairDataModule(placement=StreamingPlacement(), validation_items=parts["batch"], **parts)


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
) -> Flow:
    """Fine-tune a flow towards the tilted law p1(x) e^{strength · r(x)} / Z, with an adapter beside the frozen base.

    Args:
        flow: A flow from Gaussian noise with independent coupling, or a bridge that sees its start.
        reward: r(x1) -> (N,), in nats: a function, or a reward of ``flowport.reward``.
        strength: λ.
        method: By default a short probe of flow and reward chooses; what was chosen, and why, is printed.
        adapter: What is trained; None: as the method needs.
        network: Of the adapters control and value; by default an MLP for vectors and a U-Net for images.
        steps: Optimiser steps.
        starts: Paths per rollout.
        lr: Learning rate of Adam.
        seed: Of everything that is drawn.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        progress: Whether a progress bar is shown; by default in a terminal.

    Raises:
        FlowportError: For a flow whose tilt is not defined, with what to change, and for a reward that is not finite.
    """
    if flow.source is None:
        raise FlowportError("a loaded flow does not hold its source's data, where fine-tuning starts: fit it again")
    source = flow.source
    target = flow.target or Gaussian(event_shape=flow.event_shape)
    if not isinstance(reward, Reward) and not isinstance(reward, str):
        reward = FunctionReward(reward)
    reward, randomness = member("reward", reward), Randomness(seed).under("fine-tuning")
    reward.check(source, target)
    chosen, adapter = settled(flow.field, (source, target), reward, strength, method, adapter, starts, randomness)
    change = member("adapter", adapter)
    if "network" in inspect.signature(change).parameters and "network" not in getattr(change, "keywords", {}):
        make = _default_network(flow.event_shape) if network is None else network_factory(network)
        change = partial(change, network=make)
    module = FineTuneModule(
        source,
        target,
        flow.field,
        change,
        chosen,
        reward,
        strength,
        partial(torch.optim.Adam, lr=lr),
        CosineScheduler,
        randomness,
    )
    data = PairDataModule(
        UnpairedPairing(source, target),
        IndependentCoupling(),
        randomness.under("data"),
        starts,
        validation_items=starts,
        placement=StreamingPlacement(),
        repeat=chosen.steps_per_rollout,
    )
    _train(module, data, steps, device, progress)
    condition = flow.field.conditioning.shape(source, target)
    description = None if flow.description is None else describe_tilted(flow.description, change, condition)
    return flow_of(module.ema, (source, target), description, seed)
