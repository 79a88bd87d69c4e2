"""One method in one world at one strength: trained from the exact base, then judged against the exact tilt."""

from collections.abc import Callable

import lightning
import torch
from torch import Tensor

from flowport.arena.fitting import fit
from flowport.arena.judge import adjoint_sees, judge
from flowport.arena.learnt import learnt
from flowport.coupling import Independent
from flowport.data import PairDataModule
from flowport.errors import Refusal
from flowport.field.base import Field
from flowport.field.tilted import Change
from flowport.fine_tuning import FineTuneModule
from flowport.joint import Product
from flowport.network import Network
from flowport.objective import Tuning
from flowport.objective.tuning import tunes
from flowport.randomness import Randomness
from flowport.reward import Reward
from flowport.shapes import Condition, Pair
from flowport.world import World


class Counted(Reward):
    """A reward that counts the points it is asked about."""

    def __init__(self, reward: Reward) -> None:
        super().__init__()
        self.reward, self.calls = reward, 0
        self.differentiable = reward.differentiable

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        self.calls += len(x1)
        return self.reward(x1, condition)


def contest(world: World, objective: Tuning, change: Callable[..., Change], strength: float,
            optimizer: Callable[..., torch.optim.Optimizer],
            scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None,
            trainer: Callable[..., lightning.Trainer], seed: int = 0, ema_decay: float = 0.99, fresh: int = 256,
            rounds: int | None = None, points: int = 8192, base: Callable[..., Network] | None = None,
            pretraining: int = 0) -> dict[str, float]:  # fmt: skip
    """Errors of a method to the true tilt (``judge``), calls of the reward, seconds and optimiser steps of training.

    Every method has the world's budget of calls. One that learns many steps from a collection of paths starts each
    from ``world.starts`` points and takes ``rounds`` steps (the method's own where that is None); one that takes a
    single step starts from ``fresh``. A world's own rounds come first, for every method: its calls are too few for
    single steps. pretraining: steps in which the network ``base`` learns the world's base first (``learnt``); 0: the
    exact one is tuned.
    """
    objective = tunes(objective)
    if fresh < 1 or points < 2 * world.groups:
        raise Refusal(f"fresh and points must be at least 1 and {2 * world.groups}, not {fresh} and {points}")
    if rounds is not None and rounds < 1:
        raise Refusal(f"rounds must be at least 1, or null: as the method says, not {rounds}")
    if world.rounds is not None:
        objective.rounds = world.rounds
    elif rounds is not None and objective.rounds > 1:
        objective.rounds = rounds
    starts = world.starts if objective.rounds > 1 else fresh
    reward, randomness = Counted(world.reward), Randomness(seed).under("arena")
    data = PairDataModule(Product(world.source, world.target), Independent(), randomness.under("data"), starts,
                          validation_items=starts, repeat=objective.rounds)  # fmt: skip
    tuned: Field = world.base if base is None or not pretraining else learnt(world, base, trainer, pretraining, seed)
    module = FineTuneModule(world.source, world.target, tuned, change, objective, reward, strength, optimizer,
                            scheduler, randomness, ema_decay)  # fmt: skip
    steps = affordable(module, data.train.at(0), world.calls, randomness.generator("rehearsal"))
    reward.calls = 0
    seconds = fit(trainer, module, data, steps)
    found = judge(module.ema, world, strength, randomness.generator("judge"), points)
    found |= adjoint_sees(world, strength, randomness.generator("sight"))
    return {f"arena/{name}": float(number) for name, number in found.items()} | {
        "arena/calls": reward.calls, "train/seconds": round(seconds, 2), "train/steps": steps,
    }  # fmt: skip


def affordable(module: FineTuneModule, pair: Pair, calls: int, generator: torch.Generator) -> int:
    """Optimiser steps, in whole collections, that ``calls`` of the reward pay for: what one collection and one step
    take is counted in a rehearsal that changes nothing.

    Raises Refusal where they do not pay for a single collection.
    """
    objective, reward = module.objective, module.reward
    assert isinstance(reward, Counted)
    before = reward.calls
    rollout, _ = objective.collect(module.ema, reward, module.strength, pair, generator)
    collected = reward.calls - before
    objective.loss(module.field, [rollout], generator)
    learnt = reward.calls - before - collected
    steps = calls // (collected + learnt * objective.rounds) * objective.rounds
    if steps < 1:
        raise Refusal(f"world.calls={calls} is too small: one collection takes {collected + learnt * objective.rounds}")
    return steps
