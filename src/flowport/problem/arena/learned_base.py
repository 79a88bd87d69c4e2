"""A base as researchers have it: learnt, and wrong by as much as a small network is."""

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
    """The moving average of a network that flow matching taught the problem's base in ``steps`` steps.

    On a bridge it predicts the target, whose regression has no singular end. Raises FlowportError for a problem whose
    ends are
    correlated, of which there is no independent draw.
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
