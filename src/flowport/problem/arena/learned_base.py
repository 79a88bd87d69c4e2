"""A learned base flow of a problem, with the error of a small network."""

from collections.abc import Callable
from functools import partial

import lightning
import torch

from flowport.coupling import IndependentCoupling
from flowport.data.datamodule import PairDataModule
from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.network import Network
from flowport.prediction import TargetPrediction, VelocityPrediction
from flowport.problem import Problem
from flowport.training.compose import compose
from flowport.training.fitting import train_in_memory
from flowport.training.scheduler import CosineScheduler

BATCH, RATE, DECAY = 1024, 2e-3, 0.998


def learned_base(
    problem: Problem, network: Callable[..., Network], trainer: Callable[..., lightning.Trainer], steps: int, seed: int
) -> Field:
    """The moving average of a network that is trained by flow matching on the problem's base.

    On a bridge the network predicts the target, since the velocity is singular at the end.

    Args:
        problem: The problem.
        network: Builds the network.
        trainer: Builds the Lightning trainer.
        steps: Number of optimiser steps.
        seed: Seed of the training.

    Raises:
        FlowportError: For a problem with correlated ends, from which independent pairs cannot be drawn.
    """
    path = problem.base.path
    if not problem.independent:
        raise FlowportError("pretraining needs a problem of independent ends: write problem.correlation=0")
    module, data = compose(
        problem.source,
        problem.target,
        coupling=IndependentCoupling(),
        path=path,
        conditioning=problem.base.conditioning,
        prediction=TargetPrediction() if path.bridge else VelocityPrediction(),
        network=network,
        optimizer=partial(torch.optim.Adam, lr=RATE),
        scheduler=CosineScheduler,
        ema_decay=DECAY,
        seed=seed,
        data=partial(PairDataModule, batch=BATCH, validation_items=BATCH),
    )
    train_in_memory(trainer, module, data, steps)
    return module.ema
