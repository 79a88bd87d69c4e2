"""One fine-tuning method on one problem at one strength: training from the base, then scores against the exact tilt."""

import logging
from collections.abc import Callable
from functools import partial

import lightning
import torch
from torch import Tensor

from flowport.coupling import IndependentCoupling
from flowport.data.datamodule import PairDataModule
from flowport.data.pairing import UnpairedPairing
from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.finetuning.adapter.base import Adapter
from flowport.finetuning.chosen import chosen_adapter, chosen_method
from flowport.finetuning.method import AutoMethod, FineTuningMethod
from flowport.finetuning.method.base import require_method
from flowport.finetuning.pilot import Choice, choose
from flowport.finetuning.probe import probe
from flowport.network import Network
from flowport.problem import Problem
from flowport.problem.arena.learned_base import learned_base
from flowport.problem.arena.score import adjoint_sees, score
from flowport.randomness import Randomness
from flowport.reward import Reward
from flowport.training.finetune_module import FineTuneModule
from flowport.training.fitting import train_in_memory
from flowport.types import Condition, Pair

logger = logging.getLogger(__name__)


class CountingReward(Reward):
    """A reward that counts the points on which it is evaluated.

    Args:
        reward: The reward.
    """

    def __init__(self, reward: Reward) -> None:
        super().__init__()
        self.reward, self.calls = reward, 0
        self.differentiable = reward.differentiable

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        self.calls += len(x1)
        return self.reward(x1, condition)


def duel(
    problem: Problem,
    method: FineTuningMethod | AutoMethod,
    adapter: Callable[..., Adapter],
    strength: float,
    optimizer: Callable[..., torch.optim.Optimizer],
    scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None,
    trainer: Callable[..., lightning.Trainer],
    seed: int = 0,
    ema_decay: float = 0.99,
    fresh: int = 256,
    steps_per_rollout: int | None = None,
    points: int = 8192,
    base: Callable[..., Network] | None = None,
    pretraining: int = 0,
) -> dict[str, float]:
    """Train a method on a problem within its budget of reward evaluations, and score the result against the exact tilt.

    A method with several steps per rollout uses ``problem.starts`` starts per rollout, one with a single step ``fresh``
    starts. ``problem.steps_per_rollout``, where given, replaces that of every method, for problems whose budget is too
    small for single steps; else ``steps_per_rollout`` replaces that of methods with several.

    Args:
        problem: The problem.
        method: The fine-tuning method, or the pilot that chooses one: its probe is paid for from the same budget.
        adapter: Builds the adapter, (base, event_shape, condition) -> Adapter; another one of the same network where
            the pilot chooses a method that needs it.
        strength: Strength λ of the reward.
        optimizer: Builds the optimiser, parameters -> Optimizer.
        scheduler: Builds the learning-rate scheduler, (optimizer, steps) -> LRScheduler; None for a constant rate.
        trainer: Builds the Lightning trainer.
        seed: Seed of training and scores.
        ema_decay: Decay of the exponential moving average of the adapter.
        fresh: Number of starts per rollout for methods with a single step per rollout.
        steps_per_rollout: Steps per rollout for methods with several; None for the method's own.
        points: Number of results that are scored.
        base: Builds the network of a learned base; None for the exact base.
        pretraining: Steps of the training of a learned base (``learned_base``); 0 for the exact base.

    Returns:
        ``arena/<name>`` of ``score``, ``adjoint_sees`` and the number of reward evaluations ``arena/calls``, and
        ``train/seconds`` and ``train/steps``.

    Raises:
        FlowportError: For numbers of starts, points or steps below their minimum, and for a budget that is too small.
    """
    if fresh < 1 or points < 2 * problem.groups:
        raise FlowportError(f"fresh and points must be at least 1 and {2 * problem.groups}, not {fresh} and {points}")
    if points % problem.groups:
        raise FlowportError(f"points={points} must be a multiple of {problem.groups}, the starts of this problem")
    if steps_per_rollout is not None and steps_per_rollout < 1:
        raise FlowportError(f"steps_per_rollout={steps_per_rollout} must be at least 1, or null for that of the method")
    reward, randomness = CountingReward(problem.reward), Randomness(seed).under("arena")
    tuned: Field = (
        problem.base if base is None or not pretraining else learned_base(problem, base, trainer, pretraining, seed)
    )
    if isinstance(method, AutoMethod):
        choice = piloted(problem, tuned, reward, strength, method, randomness.under("pilot"))
        logger.info("%s", choice.why)
        method = chosen_method(choice)
        if choice.adapter == "value":
            adapter = partial(chosen_adapter(choice), **getattr(adapter, "keywords", {}))
    method, probed = require_method(method), reward.calls
    if problem.steps_per_rollout is not None:
        method.steps_per_rollout = problem.steps_per_rollout
    elif steps_per_rollout is not None and method.steps_per_rollout > 1:
        method.steps_per_rollout = steps_per_rollout
    problem.frontier(torch.tensor([strength]), problem.source.sample(1, torch.Generator()).x)  # whether there is a tilt
    starts = problem.starts if method.steps_per_rollout > 1 else fresh
    data = PairDataModule(
        UnpairedPairing(problem.source, problem.target),
        IndependentCoupling(),
        randomness.under("data"),
        starts,
        validation_items=starts,
        repeat=method.steps_per_rollout,
    )
    module = FineTuneModule(
        problem.source,
        problem.target,
        tuned,
        adapter,
        method,
        reward,
        strength,
        optimizer,
        scheduler,
        randomness,
        ema_decay,
    )
    steps = affordable(module, data.train.at(0), problem.calls - probed, randomness.generator("rehearsal"))
    reward.calls = probed
    seconds = train_in_memory(trainer, module, data, steps)
    found = score(module.ema, problem, strength, randomness.generator("judge"), points)
    found |= adjoint_sees(problem, strength, randomness.generator("adjoint_snr"))
    return {f"arena/{name}": float(number) for name, number in found.items()} | {
        "arena/calls": reward.calls,
        "train/seconds": round(seconds, 2),
        "train/steps": steps,
    }


def piloted(
    problem: Problem, base: Field, reward: Reward, strength: float, auto: AutoMethod, randomness: Randomness
) -> Choice:
    """What the pilot chooses in a problem.

    Args:
        problem: The problem.
        base: Its exact or learned base.
        reward: Its reward.
        strength: Strength λ of the reward.
        auto: The sizes of the probe.
        randomness: Of the probe.
    """
    start = problem.source.sample(auto.paths, randomness.generator("source"))
    return choose(probe(base, reward, strength, Pair(start, start), randomness.generator("paths"), auto.branches))


def affordable(module: FineTuneModule, pair: Pair, calls: int, generator: torch.Generator) -> int:
    """Number of optimiser steps, in whole rollouts, within a budget of reward evaluations.

    The evaluations of one rollout and of one step are counted in a trial that changes no parameter.

    Args:
        module: The training, with a ``CountingReward``.
        pair: A batch of starts.
        calls: The budget.
        generator: Randomness of the trial.

    Raises:
        FlowportError: When the budget does not suffice for one rollout.
    """
    method, reward = module.method, module.reward
    assert isinstance(reward, CountingReward)
    before = reward.calls
    rollout, _ = method.collect(module.ema, reward, module.strength, pair, generator)
    collected = reward.calls - before
    method.loss(module.field, [rollout], generator)
    calls_in_loss = reward.calls - before - collected
    steps = calls // (collected + calls_in_loss * method.steps_per_rollout) * method.steps_per_rollout
    if steps < 1:
        raise FlowportError(
            f"problem.calls={calls} is too small: one collection takes "
            f"{collected + calls_in_loss * method.steps_per_rollout}"
        )
    return steps
