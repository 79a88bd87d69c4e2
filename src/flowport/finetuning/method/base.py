"""What a fine-tuning method is: paths are collected without gradients, then learnt from for some steps."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from flowport.errors import FlowportError
from flowport.field.base import Field
from flowport.finetuning.tilted_field import TiltedField
from flowport.objective.base import Loss
from flowport.reward.base import Reward
from flowport.types import Condition, Pair


@dataclass(frozen=True)
class Rollout:
    """n paths and what is learnt from them.

    start, end: (n, *D); reward: λ r(end), (n,); log_ratio: log dP/dP_base, (n,); label: (n,) of the wished class.
    times, variances: t_k and s²_k of the steps that are learnt from, (k,); states: x_k, and adjoints: what is paired
    with them, (k, n, *D). share: of the flow-matching target at every such step, (k,). scale: the part a of the
    reward's strength that is reached, (). temper: exponent of the weights, (). strength: λ, ().

    Of single methods: goal: target points of the batch itself, (n, *D); wanted: changes of velocity to regress on at
    the states, (k, n, *D); actions: what was done there, (k, n, *D), and log_prob: of that, up to a constant, (k, n).
    """

    start: Tensor
    end: Tensor
    reward: Tensor
    log_ratio: Tensor
    label: Tensor | None = None
    times: Tensor | None = None
    variances: Tensor | None = None
    states: Tensor | None = None
    adjoints: Tensor | None = None
    share: Tensor | None = None
    scale: Tensor | None = None
    temper: Tensor | None = None
    strength: Tensor | None = None
    goal: Tensor | None = None
    wanted: Tensor | None = None
    actions: Tensor | None = None
    log_prob: Tensor | None = None

    def condition(self, sees_source: bool) -> Condition:
        return Condition(self.label, self.start if sees_source else None)

    @property
    def ends(self) -> "Rollout":
        """Without the way: what a replay keeps of older paths."""
        return Rollout(self.start, self.end, self.reward, self.log_ratio, self.label, scale=self.scale)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}

    def to(self, device: torch.device) -> "Rollout":
        return Rollout(**{name: value.to(device) for name, value in self.tensors().items()})


class FineTuningMethod(ABC):
    """Fine-tuning method: rollouts of the current field are collected without gradients, then learned from.

    A member writes ``collect`` and ``loss``.

    Attributes:
        target: The law that the method aims at, in words.
        needs_gradient: Whether the reward must be differentiable.
        steps_per_rollout: Optimiser steps per rollout.
        replay_size: Rollouts that the replay buffer holds.
    """

    target: str
    needs_gradient: ClassVar[bool] = True
    steps_per_rollout: int = 1
    replay_size: int = 1

    def accept(self, base: Field, reward: Reward) -> None:
        """Raise FlowportError for a base flow or a reward that this method cannot serve."""
        base.capabilities.role.require_tilt()
        base.capabilities.require_score("reward fine-tuning")
        self.serve(reward)

    def serve(self, reward: Reward) -> None:
        """Raise FlowportError for a reward whose gradient this method needs and does not get."""
        if self.needs_gradient and not reward.differentiable:
            raise FlowportError(
                f"this method needs the reward's gradient, which reward={reward.called} does not have: use "
                "method=path_weighted, value_matching, tilt_matching, reward_weighted, best_of or policy_gradient"
            )

    def fits(self, field: TiltedField) -> None:  # noqa: B027  (most methods learn any change)
        """Raise FlowportError for an adapter that this method cannot learn."""

    def begin(self, number: int) -> None:
        """Told before every collection how many were before it, so that a resumed run is at the same stage."""
        return

    @abstractmethod
    def collect(
        self, field: TiltedField, reward: Reward, strength: float, pair: Pair, generator: torch.Generator
    ) -> tuple[Rollout, dict[str, Tensor]]:
        """Paths of the current field from re-paired starts, and facts worth logging. No gradient reaches the field."""

    @abstractmethod
    def loss(self, field: TiltedField, replay: Sequence[Rollout], generator: torch.Generator) -> Loss:
        """The loss of one optimiser step; the newest rollout is the last."""


def starts(field: Field, pair: Pair, generator: torch.Generator, each: int = 1) -> tuple[Tensor, Condition]:
    """The start law's points over a batch's sources, ``each`` paths from every one, and what the field is told."""
    source, label = pair.source, pair.target.label
    if each > 1:
        index = torch.arange(len(pair), device=source.x.device).repeat_interleave(each)
        source, label = source[index], None if label is None else label[index]
    if source.mask is not None:
        raise FlowportError(
            "fine-tuning does not hold padding still: train the base with mask_padding=false on both sides"
        )
    condition = field.conditioning.sampling(source, label)
    z = torch.randn(source.x.shape, generator=generator, device=source.x.device, dtype=source.x.dtype)
    return field.path.start(source.x, z), condition


def origins(start: Tensor, condition: Condition) -> Tensor:
    """From what results are re-noised, (n, *D): their x0 where the field sees it, else the noise that they began as."""
    return start if condition.source is None else condition.source


def scaled_reward(reward: Reward, end: Tensor, condition: Condition, strength: float) -> Tensor:
    """λ r of results (n, *D), in their precision, (n,). Raises FlowportError where it overflows."""
    return finite((strength * reward.value(end, condition)).to(end), "the reward times its strength", strength)


def facts_of(reward: Tensor, energy: Tensor, end: Tensor, **more: Tensor) -> dict[str, Tensor]:
    """What every method logs: reward, control energy (KL to the base) and the spread of the results (variance of a
    number of the point, averaged)."""
    return {"reward": reward.mean(), "energy": energy.mean(), "diversity": end.flatten(1).var(0).mean(), **more}


def finite(tensor: Tensor, what: str, strength: float) -> Tensor:
    """The tensor, unless a number of it is not finite: then FlowportError."""
    if not bool(tensor.isfinite().all()):
        raise FlowportError(f"{what} is not finite at strength={strength:g}: lower the strength, or use more steps")
    return tensor


def require_method(method: object) -> FineTuningMethod:
    """The method, unless it trains flows instead: then FlowportError."""
    if not isinstance(method, FineTuningMethod):
        raise FlowportError(
            "this trains a flow from pairs: to fine-tune a trained one use method=path_weighted_adjoint or another "
            "member of configs/method"
        )
    return method
