"""The LightningModule that tunes a trained flow towards a reward."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.finetuning.adapter.base import Adapter
from flowport.finetuning.method import FineTuningMethod, Rollout
from flowport.finetuning.method.base import require_method
from flowport.finetuning.tilted_field import TiltedField
from flowport.randomness import Randomness, seed_network
from flowport.reward.base import Reward
from flowport.training.averaging import AveragedModule
from flowport.training.guard import logged
from flowport.types import Pair


def tilted(base: Field, adapter: Callable[..., Adapter], source: Distribution, target: Distribution) -> TiltedField:
    """A base with a fresh adapter, built for the shapes of its run."""
    condition = base.conditioning.shape(source, target)
    return TiltedField(base, adapter(base=base, event_shape=source.event_shape, condition=condition))


class FineTuneModule(AveragedModule):
    """A frozen flow with an adapter that a fine-tuning method learns, so that results follow the tilt p e^{strength ·
    r}.

    base: the trained field; adapter: base -> Adapter, for instance a partial of
    ``flowport.finetuning.adapter.ControlAdapter``. Every
    ``method.steps_per_rollout`` steps the averaged field rolls out paths from the starts of a batch, and the steps
    between learn from them and from a replay of ``method.replay_size`` such collections, which a checkpoint holds too.
    Raises FlowportError for a base or a reward that the method cannot serve.
    """

    field: TiltedField
    ema: TiltedField
    _reward: tuple[Reward]

    def __init__(
        self,
        source: Distribution,
        target: Distribution,
        base: Field,
        adapter: Callable[..., Adapter],
        method: FineTuningMethod,
        reward: Reward,
        strength: float,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler] | None,
        randomness: Randomness,
        ema_decay: float = 0.99,
    ) -> None:
        if not 0 < strength < math.inf:
            raise FlowportError(f"strength={strength} must be above 0, and finite: it multiplies the reward")
        require_method(method).accept(base, reward)
        reward.check(source, target)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(randomness.number("initial weights of the change"))
            field = tilted(base, adapter, source, target)
        method.fits(field)
        ema = TiltedField(base, deepcopy(field.adapter))
        super().__init__(source, target, field, ema, optimizer, scheduler, randomness, ema_decay)
        self.method, self.strength = method, float(strength)
        self._reward = (reward,)  # in a tuple, so no submodule: its weights are no part of the run,
        self.learnt = reward if reward.learnt else None  # unless the run has learnt it
        self.replay: deque[Rollout] = deque(maxlen=method.replay_size)

    @property
    def reward(self) -> Reward:
        """The reward, on this module's device."""
        return self._reward[0].to(self.device)

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        step, device = self.global_step, self.device
        seed_network(self.draws.number("network", self.batches), device)
        if self.batches % self.method.steps_per_rollout == 0 or not self.replay:
            self._collect(pair)
        generator = self.draws.generator("objective", self.batches, device)
        loss = self.method.loss(self.field, self.replay, generator).mean
        self.note(step, loss)
        if logged(self.trainer, step + 1):
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(pair))
        self.batches += 1
        return loss

    def _collect(self, pair: Pair) -> None:
        number = self.batches // self.method.steps_per_rollout
        generator = self.draws.generator("collection", number, self.device)
        self.method.begin(number)
        rollout, facts = self.method.collect(self.ema.eval(), self.reward, self.strength, pair, generator)
        if self.replay:
            self.replay.append(self.replay.pop().ends)
        self.replay.append(rollout)
        for name, value in facts.items():
            self.log(f"tune/{name}", value, prog_bar=name == "reward", batch_size=len(pair))

    def validation_step(self, pair: Pair, batch_idx: int) -> None:
        """A tilt has no held-out loss: the metrics and the certificate measure it."""

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
