"""Train flows from Python, in memory."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning import Trainer

from flowport.api.flow import Flow, flow_of
from flowport.api.members import Points, distribution, member
from flowport.api.saving import describe_learned, network_factory
from flowport.data.agreement import agreed
from flowport.data.datamodule import PairDataModule
from flowport.data.pairing import UnpairedPairing
from flowport.data.placement import StreamingPlacement
from flowport.field import LearnedField
from flowport.network import MLP, Network, PatchUNet, SetTransformer
from flowport.path import FunctionsPath
from flowport.training.compose import compose
from flowport.training.fitting import train_in_memory
from flowport.training.scheduler import CosineScheduler
from flowport.types import EventShape


def train_here(module: Any, data: Any, steps: int, device: str, progress: bool | None) -> None:
    """Train in memory and bring the module back to the CPU.

    Args:
        module: The LightningModule.
        data: Its datamodule.
        steps: Optimiser steps.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        progress: Whether a progress bar is shown; None: in a terminal.
    """
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
    make = default_network(sides[1].event_shape) if network is None else network_factory(network)
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
    train_here(module, data, steps, device, progress)
    assert isinstance(module.ema, LearnedField)
    return flow_of(module.ema, sides, describe_learned(module.ema, make), seed)


def default_network(shape: EventShape) -> Callable[..., Network]:
    """The network of points of a shape: vectors, clouds, images.

    Args:
        shape: D, the shape of one point.
    """
    makes: dict[int, Callable[..., Network]] = {1: partial(MLP, width=128), 2: SetTransformer}
    return makes.get(len(shape), PatchUNet)


def _datamodule(**parts: Any) -> PairDataModule:
    """Data that stay on the host, whatever their size."""
    return PairDataModule(placement=StreamingPlacement(), validation_items=parts["batch"], **parts)
