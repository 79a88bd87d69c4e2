"""The LightningModule that fine-tunes a trained flow towards a reward."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
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
from flowport.finetuning.peak_memory import GIB, PeakMemory, peak_memory
from flowport.finetuning.tilt_mass import require_mass, require_range
from flowport.finetuning.tilted_field import TiltedField
from flowport.finetuning.trajectories import Trajectories
from flowport.network.pieces import checkpoint_blocks, require_rows, set_piece_rows
from flowport.network.replay import start_replay, stop_replay
from flowport.randomness import Randomness, seed_network
from flowport.reward.base import Reward
from flowport.training import ranks
from flowport.training.averaging import AveragedModule
from flowport.training.guard import logged
from flowport.types import Pair

logger = logging.getLogger(__name__)


def tilted(base: Field, adapter: Callable[..., Adapter], source: Distribution, target: Distribution) -> TiltedField:
    """A base field with a new adapter.

    Args:
        base: The trained field.
        adapter: (base, event_shape, condition) -> Adapter.
        source: The source, which determines the shape of points.
        target: The target, which with the source determines the condition.
    """
    condition = base.conditioning.shape(source, target)
    return TiltedField(base, adapter(base=base, event_shape=source.event_shape, condition=condition))


ROOM = 0.9
"""Share of the device's free memory that the estimate may take where the rows of a piece are chosen by it."""


def device_memory(device: torch.device) -> int | None:
    """Bytes that this process can have of a CUDA device; None for another one.

    Args:
        device: The device.
    """
    if device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


class FineTuneModule(AveragedModule):
    """LightningModule that trains an adapter on a frozen base flow, to sample the tilted law p e^(strength · r).

    Every ``method.steps_per_rollout`` batches the averaged field generates a rollout from the starts of the batch. All
    steps learn from a replay buffer of the last ``method.replay_size`` rollouts, which is part of a checkpoint; of all
    but the newest rollout it has the starts and end points only. Of several processes each has a buffer of its own; a
    checkpoint holds all of them.

    Args:
        source: The source.
        target: The target.
        base: The trained field, which stays frozen.
        adapter: (base, event_shape, condition) -> Adapter, for instance
            ``flowport.finetuning.adapter.ControlAdapter``.
        method: The fine-tuning method.
        reward: The reward r of end points.
        strength: Factor of the reward in the exponent of the tilt, > 0 and finite.
        optimizer: Builds the optimiser of the adapter, parameters -> Optimizer.
        scheduler: Builds the learning-rate scheduler, (optimizer, steps) -> LRScheduler; None for a constant rate.
        randomness: Randomness of the run.
        ema_decay: Decay of the exponential moving average of the adapter.
        rows: Rows of points of which networks and reward hold the activations at a time; None for all. Results do not
            depend on it but for rounding, and for the numbers of dropout.
        checkpointing: Whether the blocks of the trained network are computed a second time in the backward pass, beside
            what the network's own option ``checkpointing`` says.
        trajectories: How the states and adjoints of a collection are kept; None: as they are.

    Attributes:
        field: The tilted field in training.
        ema: Its exponential moving average.
        replay: The replay buffer, newest rollout last.
        says_peak: Whether the peak of memory is estimated and logged before the first step, and the rows of a piece are
            taken by it where none are given and a GPU has less.

    Raises:
        FlowportError: Unless 0 < strength < ∞ and rows ≥ 1, for a base or a reward that the method does not support,
            and for ``checkpointing`` of a network without blocks.
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
        rows: int | None = None,
        checkpointing: bool = False,
        trajectories: Trajectories | None = None,
    ) -> None:
        if not 0 < strength < math.inf:
            raise FlowportError(f"strength={strength} must be above 0, and finite: it multiplies the reward")
        require_rows(rows)
        require_method(method).accept(base, reward)
        reward.check(source, target)
        method.accept_reward(reward)  # whether a user's function has a gradient is found on points
        if not base.conditioning.sees_source:  # given its start, a law is narrower than that of the target
            require_mass(reward, strength, target)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(randomness.number("initial weights of the change"))
            field = tilted(base, adapter, source, target)
        method.accept_adapter(field)
        if checkpointing and not checkpoint_blocks(field.adapter):
            raise FlowportError(
                "checkpointing=true finds no blocks in the trained network: use network=adm_unet, patch_unet, dit or "
                "set_transformer, or rows alone"
            )
        ema = TiltedField(base, deepcopy(field.adapter))
        super().__init__(source, target, field, ema, optimizer, scheduler, randomness, ema_decay)
        self.method, self.strength = method, float(strength)
        self._reward = (reward,)  # in a tuple, so that it is no submodule and in no checkpoint,
        self.learnt = reward if reward.learnt else None  # unless this run has trained it
        self._replayed: list[nn.Module] = []
        self.replay: deque[Rollout] = deque(maxlen=method.replay_size)
        self.trajectories, self.says_peak = trajectories or Trajectories(), False
        self._take_rows(rows)

    def _take_rows(self, rows: int | None) -> None:
        """Let fields and rewards be evaluated in pieces of so many rows."""
        self.rows = rows
        for part in (self.field, self.ema):
            set_piece_rows(part, rows)
        for term in (self._reward[0], *self._reward[0].term_rewards.values()):  # terms are also evaluated alone
            term.piece_rows = rows

    @property
    def reward(self) -> Reward:
        """The reward, on this module's device."""
        return self._reward[0].to(self.device)

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        step = self.global_step
        seed_network(self.draws.number("network", self.batches), self.device)
        if self.says_peak:  # also of a run that goes on within a collection
            self._say_peak(pair)
        if self.batches % self.method.steps_per_rollout == 0 or not self.replay:
            self._collect(pair)
        loss = self.loss_of(pair, self.draws.number("objective", self.batches))
        self.note(step, loss)
        if logged(self.trainer, step + 1):
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(pair), sync_dist=True)
        self.batches += 1
        return loss

    def batch_loss(self, pair: Pair, generator: torch.Generator) -> Tensor:
        return self.method.loss(self.field, self.replay, generator).mean

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients as the trainer says, else as the method does.

        Args:
            optimizer: The optimiser.
            gradient_clip_val: The trainer's value; None or 0 for that of the method.
            gradient_clip_algorithm: The trainer's.
        """
        super().configure_gradient_clipping(
            optimizer, gradient_clip_val or self.method.gradient_clip, gradient_clip_algorithm
        )

    def loss_parts(self) -> Sequence[object]:
        return [*super().loss_parts(), self.method]

    def _collect(self, pair: Pair) -> None:
        number = self.batches // self.method.steps_per_rollout
        generator = self.draws.generator("collection", number, self.device)
        self.method.begin(number)
        rollout, facts = self.method.collect(self.ema.eval(), self.reward, self.strength, pair, generator)
        if self.replay:
            self.replay.append(self.replay.pop().without_record)
        self.replay.append(self.trajectories.stored(rollout, self.device))
        require_range(rollout.end, pair.target.x, self.strength)
        condition = rollout.condition(self.ema.conditioning.sees_source)
        plain = {k.removeprefix("scaled_"): v / self.strength for k, v in facts.items() if k.startswith("scaled_")}
        terms = {f"term_{k}": v.mean() for k, v in self.reward.term_values(rollout.end, condition).items()}
        for name, value in {**facts, **plain, **terms}.items():
            self.log(f"tune/{name}", value, prog_bar=name == "reward", batch_size=len(pair), sync_dist=True)

    def _say_peak(self, pair: Pair) -> None:
        """Log the estimated peak of memory, once; where the device has less, halve the rows until it fits."""
        self.says_peak, limit, found = False, device_memory(self.device), self._peak(pair)
        if limit is not None and found.total > limit and self.rows is None:
            logger.info("all rows at once would take %s", found.sentence())
            size = self.method.footprint(len(pair), self.field.conditioning.sees_source)
            rows = max(size.paths, size.points)
            while found.total > ROOM * limit and rows > 1:
                rows //= 2
                self._take_rows(rows)
                found = self._peak(pair)
            logger.info("rows=%d is taken, since this device has %.3g GiB", rows, limit / GIB)
        level = logging.WARNING if limit is not None and found.total > limit else logging.INFO
        logger.log(level, found.sentence(limit))

    def _peak(self, pair: Pair) -> PeakMemory:
        """The estimated peak of memory with the present rows."""
        steps = self.trainer.max_steps
        return peak_memory(
            self.field,
            self.ema,
            self.reward,
            self.method,
            pair,
            self.make_optimizer,
            self.rows,
            self.trajectories,
            self._autocast(),
            bool(self._replayed) and self.device.type == "cuda",
            None if steps < 0 else math.ceil(steps / self.method.steps_per_rollout),
        )

    def validation_step(self, pair: Pair, batch_idx: int) -> None:
        """No validation loss, since a tilt has none; metrics and the certificate measure it.

        Args:
            pair: A batch of held-out pairs, unused.
            batch_idx: Number of the batch, unused.
        """

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        own = [rollout.to(torch.device("cpu")).tensors() for rollout in self.replay] if ranks.count() > 1 else None
        if own is None:
            checkpoint["replay"] = [rollout.tensors() for rollout in self.replay]
        else:
            checkpoint["replays"] = ranks.gathered(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the replay buffer of this process.

        Args:
            checkpoint: What was saved.

        Raises:
            FlowportError: For the buffers of another number of processes.
        """
        self.replay.clear()
        replays = checkpoint["replays"] if "replays" in checkpoint else [checkpoint["replay"]]
        if len(replays) != ranks.count():
            raise FlowportError(
                f"this checkpoint holds the replay buffers of {len(replays)} processes, not of {ranks.count()}: resume "
                "it with the trainer.devices and trainer.num_nodes that it was trained with"
            )
        self.replay.extend(Rollout.of(tensors) for tensors in replays[ranks.number()])

    def on_train_start(self) -> None:
        super().on_train_start()
        for k, rollout in enumerate(self.replay):
            self.replay[k] = self.trajectories.stored(rollout, self.device)
        if lossy := self.trajectories.sentence():
            logger.info(lossy)
        if self.capture:
            self._replayed = start_replay(nn.ModuleList([self.field, self.ema]))

    def on_train_end(self) -> None:
        super().on_train_end()
        stop_replay(self._replayed)
