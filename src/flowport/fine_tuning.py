"""The LightningModule that tunes a trained flow towards a reward."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from flowport.averaging import Averaged
from flowport.distribution.base import Distribution
from flowport.errors import Refusal
from flowport.field.base import Field
from flowport.field.tilted import Change, Tilted
from flowport.guard import logged
from flowport.objective import Rollout, Tuning
from flowport.objective.tuning import tunes
from flowport.randomness import Randomness, seed_network
from flowport.reward.base import Reward
from flowport.shapes import Pair


def tilted(base: Field, change: Callable[..., Change], source: Distribution, target: Distribution) -> Tilted:
    """A base with a fresh change, built for the shapes of its run."""
    condition = base.conditioning.shape(source, target)
    return Tilted(base, change(base=base, event_shape=source.event_shape, condition=condition))


class FineTuneModule(Averaged):
    """A frozen flow with a change that a tuning objective learns, so that results follow the tilt p e^{strength · r}.

    base: the trained field; change: base -> Change, for instance a partial of ``flowport.change.Control``. Every
    ``objective.rounds`` steps the averaged field rolls out paths from the starts of a batch, and the steps between
    learn from them and from a replay of ``objective.keep`` such collections, which a checkpoint holds too.
    Raises Refusal for a base or a reward that the objective cannot serve.
    """

    field: Tilted
    ema: Tilted
    judge: tuple[Reward]

    def __init__(
        self,
        source: Distribution,
        target: Distribution,
        base: Field,
        change: Callable[..., Change],
        objective: Tuning,
        reward: Reward,
        strength: float,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler] | None,
        randomness: Randomness,
        ema_decay: float = 0.99,
    ) -> None:
        if not 0 < strength < math.inf:
            raise Refusal(f"strength={strength} must be above 0, and finite: it multiplies the reward")
        tunes(objective).accept(base, reward)
        reward.check(source, target)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(randomness.number("initial weights of the change"))
            field = tilted(base, change, source, target)
        objective.fits(field)
        ema = Tilted(base, deepcopy(field.change))
        super().__init__(source, target, field, ema, optimizer, scheduler, randomness, ema_decay)
        self.objective, self.strength = objective, float(strength)
        self.judge = (reward,)  # in a tuple, so no submodule: a judge's weights are no part of the run,
        self.learnt = reward if reward.learnt else None  # unless the run has learnt it
        self.replay: deque[Rollout] = deque(maxlen=objective.keep)

    @property
    def reward(self) -> Reward:
        """The judge, on this module's device."""
        return self.judge[0].to(self.device)

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        step, device = self.global_step, self.device
        seed_network(self.draws.number("network", self.batches), device)
        if self.batches % self.objective.rounds == 0 or not self.replay:
            self._collect(pair)
        generator = self.draws.generator("objective", self.batches, device)
        loss = self.objective.loss(self.field, self.replay, generator).mean
        self.note(step, loss)
        if logged(self.trainer, step + 1):
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(pair))
        self.batches += 1
        return loss

    def _collect(self, pair: Pair) -> None:
        number = self.batches // self.objective.rounds
        generator = self.draws.generator("collection", number, self.device)
        self.objective.begin(number)
        rollout, facts = self.objective.collect(self.ema.eval(), self.reward, self.strength, pair, generator)
        if self.replay:
            self.replay.append(self.replay.pop().ends)
        self.replay.append(rollout)
        for name, value in facts.items():
            self.log(f"tune/{name}", value, prog_bar=name == "reward", batch_size=len(pair))

    def validation_step(self, pair: Pair, batch_idx: int) -> None:
        """A tilt has no held-out loss: the metrics and the certificate judge it."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["replay"] = [rollout.tensors() for rollout in self.replay]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.replay.clear()
        self.replay.extend(Rollout(**tensors) for tensors in checkpoint["replay"])

    def on_train_start(self) -> None:
        super().on_train_start()
        for k, rollout in enumerate(self.replay):
            self.replay[k] = rollout.to(self.device)
