"""A base as researchers have it: learnt, and wrong by as much as a small network is."""

from collections.abc import Callable
from functools import partial

import lightning
import torch

from flowport.arena.fitting import fit
from flowport.composition import compose
from flowport.coupling import Independent
from flowport.data import PairDataModule
from flowport.errors import Refusal
from flowport.field.base import Field
from flowport.network import Network
from flowport.prediction import Target, Velocity
from flowport.schedule import WarmupCosine
from flowport.world import World

BATCH, RATE, DECAY = 1024, 2e-3, 0.998


def learnt(world: World, network: Callable[..., Network], trainer: Callable[..., lightning.Trainer], steps: int,
           seed: int) -> Field:  # fmt: skip
    """The moving average of a network that flow matching taught the world's base in ``steps`` steps.

    On a bridge it predicts the target, whose regression has no singular end. Raises Refusal for a world whose ends are
    correlated, of which there is no independent draw.
    """
    path = world.base.path
    if not world.independent:
        raise Refusal("pretraining needs a world of independent ends: write world.correlation=0")
    module, data = compose(
        world.source, world.target, coupling=Independent(), path=path, conditioning=world.base.conditioning,
        prediction=Target() if path.bridge else Velocity(), network=network,
        optimizer=partial(torch.optim.Adam, lr=RATE), scheduler=WarmupCosine, ema_decay=DECAY, seed=seed,
        data=partial(PairDataModule, batch=BATCH, validation_items=BATCH),
    )  # fmt: skip
    fit(trainer, module, data, steps)
    return module.ema
