"""The interface of fine-tuning methods, and the rollouts that they collect and learn from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from flowport.errors import Checked, FlowportError
from flowport.field.base import Field
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.tensors import noise_like, to_device
from flowport.types import Condition, Pair


@dataclass(frozen=True)
class Rollout:
    """Paths of one collection, and what a method learns from them.

    Args:
        start: Source of every path, as in ``origins``, (n, *D).
        end: Results x1, (n, *D).
        reward: λ r(end), (n,).
        log_ratio: S = log dP/dP_base of the paths, (n,); 0 where the method does not use it.
        label: Requested classes (n,) or values (n, c) of the condition.
        record: Tensors of a single method by name, for instance states along the paths; ``rollout["states"]`` reads
            them. The class of the method says which it records.
    """

    start: Tensor
    end: Tensor
    reward: Tensor
    log_ratio: Tensor
    label: Tensor | None = None
    record: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.record[name]

    def at(self, name: str, step: Tensor, row: Tensor) -> Tensor:
        """Points of a recorded trajectory, (B, *D), in the precision and on the device of the results.

        Args:
            name: Name of a record of shape (k, n, *D), kept as ``flowport.finetuning.trajectories`` was told.
            step: Steps, (B,).
            row: Paths, (B,).
        """
        kept = self.record[name]
        found = kept[step.to(kept.device), row.to(kept.device)]
        return to_device(found, self.end.device).to(self.end.dtype)

    def condition(self, sees_source: bool) -> Condition:
        """The condition of the paths, n rows.

        Args:
            sees_source: Whether the field is conditioned on x0, which then is ``start``.
        """
        return Condition(self.label, self.start if sees_source else None)

    @property
    def without_record(self) -> "Rollout":
        """The rollout as a replay buffer holds older collections: sources, results and their weights' parts."""
        return replace(self, record={})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as a checkpoint stores them."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "record"}
        return {name: value for name, value in own.items() if value is not None} | dict(self.record)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Rollout":
        """The rollout of ``tensors``.

        Args:
            tensors: By name.
        """
        own = {f.name for f in fields(cls)}
        record = {name: value for name, value in tensors.items() if name not in own}
        return cls(**{name: value for name, value in tensors.items() if name in own}, record=record)

    def to(self, device: torch.device) -> "Rollout":
        """The rollout on a device.

        Args:
            device: The device.
        """
        return Rollout.of({name: value.to(device) for name, value in self.tensors().items()})


@dataclass(frozen=True)
class Footprint:
    """What a method holds in memory beside networks, in numbers of tensors of the shape (n, *D) of all results.

    Args:
        paths: Number n of results of a collection.
        points: Points at which a step of the optimiser evaluates the loss.
        collected: Tensors that a collection holds at a time.
        states: Tensors of recorded states and actions.
        adjoints: Tensors of recorded adjoints; 0 for a method without the lean adjoint.
    """

    paths: int
    points: int
    collected: int = 6
    states: int = 0
    adjoints: int = 0


class FineTuningMethod(Checked, ABC):
    """Fine-tuning method: paths of the current flow are collected without gradients and then learnt from.

    Let p be the law of the base's results, r the reward and λ its strength; most methods aim at the tilt p e^{λr}/Z.
    Every ``steps_per_rollout`` optimiser steps the moving average of the tuned field collects a ``Rollout`` from the
    sources of a batch, and every step minimises ``loss`` on the replay buffer. A member provides ``collect``, ``loss``
    and ``target``. All randomness comes from the generators passed in, on the device of the points.

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py``, add
    ``configs/method/<name>.yaml`` with ``_target_``, and register it in ``TUNINGS`` of tests/zoo.py.

    Attributes:
        target: The law that the method aims at, in words.
        needs_gradient: Whether the reward must be differentiable.
        steps_per_rollout: Optimiser steps per rollout.
        replay_size: Rollouts that the replay buffer holds.
        gradient_clip: Largest norm of the gradient where trainer.gradient_clip_val is null; None for no limit.
        capturable: Whether a CUDA graph can contain the loss; its rollouts are new tensors and its rows are chosen on
            the host, so it cannot.
    """

    target: str
    needs_gradient: ClassVar[bool] = True
    steps_per_rollout: int = 1
    replay_size: int = 1
    gradient_clip: float | None = None
    capturable: ClassVar[bool] = False

    def accept(self, base: Field, reward: Reward) -> None:
        """Check that this method can tune a base by a reward.

        Args:
            base: The trained field.
            reward: The reward.

        Raises:
            FlowportError: For a base without a score or a guaranteed tilt, and as ``serve`` does.
        """
        base.capabilities.role.require_tilt()
        base.capabilities.require_score("reward fine-tuning")
        self.accept_reward(reward)

    def accept_reward(self, reward: Reward) -> None:
        """Check that this method can use a reward.

        Args:
            reward: The reward.

        Raises:
            FlowportError: For a reward without a gradient where the method needs one.
        """
        if self.needs_gradient and not reward.differentiable:
            raise FlowportError(
                f"this method needs the reward's gradient, which reward={reward.called} does not have: use "
                "method=path_weighted, value_matching, tilt_matching, reward_weighted, best_of, policy_gradient, "
                "diffusion_nft or advantage_weighted"
            )

    def accept_adapter(self, field: TiltedField) -> None:
        """Check that this method can train an adapter.

        Args:
            field: The tilted field with its adapter.

        Raises:
            FlowportError: For an adapter or a conditioning that the method does not support.
        """

    def begin(self, number: int) -> None:
        """Set the stage before a collection, so that a resumed run is at the same stage.

        Args:
            number: Number of the collection, from 0.
        """
        return

    def footprint(self, starts: int, sees_source: bool) -> Footprint:
        """What a collection and a step hold in memory, for the estimate of ``flowport.finetuning.peak_memory``.

        A member overrides it where it records trajectories, starts several paths from a start or draws a batch.

        Args:
            starts: Number of starts of a collection.
            sees_source: Whether the field is conditioned on x0.
        """
        return Footprint(starts, starts)

    def differentiated(self, field: TiltedField, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The function of points that the loss differentiates in the weights, for the same estimate.

        Args:
            field: The field that is trained.
            x: Points, (B, *D).
            t: Times, (B,).
            condition: What the field is conditioned on, B rows.
        """
        return field.shift(x, t, condition)

    @abstractmethod
    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        """Collect paths of the current field, without gradients to its parameters.

        Args:
            field: The tuned field.
            reward: The reward r.
            strength: λ.
            pair: A re-paired batch whose sources the paths start from.
            generator: Random generator, on the device of the batch.

        Returns:
            The rollout, and scalars to log by name; of scaled_<name>, in λr, <name> is logged too, in r.

        Raises:
            FlowportError: Where results, rewards or adjoints are not finite.
        """

    @abstractmethod
    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        """Loss of one optimiser step.

        Args:
            field: The field that is trained.
            replay: Rollouts of the replay buffer, the newest last; only the newest has states along its paths.
            generator: Random generator, on the device of the rollouts.
        """


def starts(field: Field, pair: Pair, generator: torch.Generator, each: int = 1) -> tuple[Tensor, Condition]:
    """Draw starts α(0) x0 + γ(0) z over a batch's sources, and the condition of the field.

    Args:
        field: The field, of which path and conditioning are read.
        pair: The batch: sources, and labels of the targets.
        generator: Random generator of z, on the device of the batch.
        each: Paths from every source, in contiguous groups.

    Returns:
        Starts (n·each, *D) and their condition.

    Raises:
        FlowportError: For sources with padding.
    """
    source, label = pair.source, pair.target.label
    if each > 1:
        index = torch.arange(len(pair), device=source.x.device).repeat_interleave(each)
        source, label = source[index], None if label is None else label[index]
    if source.mask is not None:
        raise FlowportError(
            "fine-tuning does not hold padding still: train the base with mask_padding=false on both sides"
        )
    condition = field.conditioning.sampling(source, label)
    z = noise_like(source.x, generator)
    return field.path.start(source.x, z), condition


def origins(start: Tensor, condition: Condition) -> Tensor:
    """Sources from which results are re-noised, (n, *D): x0 where the field sees it, else the initial noise.

    Args:
        start: Starts of the paths, (n, *D).
        condition: Condition of the paths, n rows.
    """
    return start if condition.source is None else condition.source


def scaled_reward(reward: Reward, end: Tensor, condition: Condition, strength: float) -> Tensor:
    """Scaled reward λ r(end), in the precision of the results, (n,).

    Args:
        reward: The reward r.
        end: Results, (n, *D).
        condition: Condition of the results, n rows.
        strength: λ.

    Raises:
        FlowportError: Where λ r is not finite in that precision.
    """
    return finite((strength * reward.value(end, condition)).to(end), "the reward times its strength", strength)


def logged_scalars(reward: Tensor, energy: Tensor, end: Tensor, **more: Tensor) -> dict[str, Tensor]:
    """Scalars that every method logs: mean scaled reward, control energy and diversity of the results.

    Diversity is the variance of a coordinate over the results, averaged over coordinates.

    Args:
        reward: λ r of the results, (n,).
        energy: Control energy of the paths, (n,), of which the mean is the KL to the base.
        end: Results, (n, *D).
        **more: Further scalars.
    """
    return {"scaled_reward": reward.mean(), "energy": energy.mean(), "diversity": end.flatten(1).var(0).mean(), **more}


def finite(tensor: Tensor, what: str, strength: float) -> Tensor:
    """The tensor itself, after a check that all its values are finite.

    Args:
        tensor: The tensor.
        what: Its name in the message.
        strength: λ, for the message.

    Raises:
        FlowportError: For a tensor with NaN or infinite values.
    """
    if not bool(tensor.isfinite().all()):
        raise FlowportError(
            f"{what} is not finite at strength={strength:g}: lower strength, or raise method.grid.steps "
            "(method.discretisation.grid.steps of adjoint methods); where the reward grows faster than the base's "
            "density falls, no strength but a lower one has a tilt of finite mass"
        )
    return tensor


def require_method(method: object) -> FineTuningMethod:
    """The method itself, after a check that it is a fine-tuning method.

    Args:
        method: The configured method.

    Raises:
        FlowportError: For an object that trains flows from pairs.
    """
    if not isinstance(method, FineTuningMethod):
        raise FlowportError(
            "this trains a flow from pairs: to fine-tune a trained one use method=auto or another "
            "member of configs/method"
        )
    return method
