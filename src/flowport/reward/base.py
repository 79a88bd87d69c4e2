"""The contract of a reward: a number for every end point of a flow, and its gradient."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from flowport.distribution.base import Distribution
from flowport.errors import Checked, FlowportError, member_name
from flowport.modality.base import Modality
from flowport.network.pieces import joined, spans
from flowport.types import Condition

Kind = TypeVar("Kind", bound=Modality)
HALVES = (torch.bfloat16, torch.float16)


class Reward(Checked, nn.Module, ABC):
    """A reward r(x1, condition) in nats; fine-tuning with strength λ aims at the tilted law p1(x1) e^{λ r(x1)}/Z.

    A member provides ``forward``. r of a point depends on this point and its condition alone, not on the batch, and is
    finite. Callers use ``value`` and ``value_and_gradient``, which handle precision and modes and check the result.
    Networks that are attributes of a reward are frozen and stay in evaluation mode.

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py``, add
    ``configs/reward/<name>.yaml`` with ``_target_`` (``_partial_: true`` where it takes a ``classifier``) and list it
    in ``REWARDS_OF`` of tests/zoo.py.

    Attributes:
        differentiable: Whether ``forward`` has a gradient in the points; other rewards only work with methods that need
            none.
        learnt: Whether the reward is learnt in its run from the flow's own results; its weights are then saved with the
            run.
        piece_rows: Points of which ``value`` and ``value_and_gradient`` compute the rewards at a time; None for all.

    References:
        Domingo-Enrich, Drozdzal, Karrer and Chen 2024, "Adjoint Matching: fine-tuning flow and diffusion generative
            models with memoryless stochastic optimal control", arXiv:2409.08861.
    """

    differentiable: bool = True
    learnt: ClassVar[bool] = False
    _remembered: tuple[tuple[Tensor, int] | None, dict[str, Tensor]] = (None, {})
    piece_rows: int | None = None

    @abstractmethod
    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        """The rewards of a batch, (B,).

        Args:
            x1: Encoded end points, (B, *D).
            condition: What the flow is conditioned on, B rows.
        """

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check, when a fine-tuning is built, that the reward is defined for the target; the default accepts all.

        A member whose modality is None takes that of the target here.

        Args:
            source: The source.
            target: The target.

        Raises:
            FlowportError: When the reward cannot be evaluated on points of the target.
        """
        return

    def value(self, x1: Tensor, condition: Condition) -> Tensor:
        """The rewards without a gradient, (B,), float32 or float64, also under autocast.

        Args:
            x1: Encoded end points, (B, *D).
            condition: What the flow is conditioned on, B rows.

        Raises:
            FlowportError: When ``forward`` returns another shape or a value that is not finite.
        """
        with torch.inference_mode(False), torch.no_grad(), exact(x1):
            found = [
                (self._checked(own(x1[at]), condition[at]), self.latest_terms) for at in spans(len(x1), self.piece_rows)
            ]
        self._remember(x1, [terms for _, terms in found])
        return joined([value for value, _ in found])

    def value_and_gradient(self, x1: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The rewards r, (B,), and their gradients ∇r, (B, *D), float32 or float64.

        Works under autocast, ``no_grad`` and inference mode.

        Args:
            x1: Encoded end points, (B, *D).
            condition: What the flow is conditioned on, B rows.

        Raises:
            FlowportError: As ``value``, for a reward without a gradient, and for a gradient that is not finite.
        """
        if not self.differentiable:
            raise FlowportError(
                f"reward={self.called} has no gradient: choose a method that needs none, or another reward"
            )
        with torch.inference_mode(False), torch.enable_grad(), exact(x1):  # autocast also changes backward passes
            found = [self._differentiated(x1[at], condition[at]) for at in spans(len(x1), self.piece_rows)]
        self._remember(x1, [terms for *_, terms in found])
        return joined([value for value, *_ in found]), joined([gradient for _, gradient, _ in found])

    def _differentiated(self, x1: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        x = own(x1).requires_grad_()
        value = self._checked(x, condition)
        gradient = torch.autograd.grad(value.sum(), x, allow_unused=True)[0] if value.requires_grad else None
        if gradient is None:
            raise FlowportError(
                f"reward={self.called} does not depend on the points by operations that torch can differentiate: "
                "write it in torch without detaching, or set differentiable = False"
            )
        bad = int((~gradient.isfinite()).flatten(1).any(1).sum())
        if bad:
            raise FlowportError(f"reward={self.called} has a gradient that is not finite for {bad} of {len(x1)} points")
        return value.detach(), gradient, self.latest_terms

    @property
    def term_rewards(self) -> Mapping[str, "Reward"]:
        """The terms of a reward of several, weighted and watched ones, by name; of any other reward none."""
        return {}

    @property
    def term_weights(self) -> Mapping[str, float]:
        """The weights of the terms by name; 0 for one that is watched."""
        return {}

    @property
    def latest_terms(self) -> Mapping[str, Tensor]:
        """The terms that the last ``forward`` has evaluated, each (B,), by name."""
        return {}

    def term_values(self, x1: Tensor, condition: Condition) -> dict[str, Tensor]:
        """The values of all terms, unweighted and without a gradient, each (B,), by name; none for a reward of one.

        Terms that ``value`` or ``value_and_gradient`` has just evaluated on the same points are not evaluated again.

        Args:
            x1: Encoded end points, (B, *D).
            condition: What the flow is conditioned on, B rows.

        Raises:
            FlowportError: As ``value``, for every term.
        """
        points, terms = self._remembered
        same = points is not None and _is_same(points, x1)
        known = terms if same else {}
        return {
            name: known[name] if name in known else term.value(x1, condition)
            for name, term in self.term_rewards.items()
        }

    def _remember(self, x1: Tensor, pieces: Sequence[Mapping[str, Tensor]]) -> None:
        """Remember what the terms were on these points, evaluated in pieces."""
        terms = {name: joined([piece[name] for piece in pieces]) for name in pieces[0]}
        if terms and not x1.is_inference():  # which have no version, so that a change is not seen
            self._remembered = (x1.detach(), x1._version), terms

    @property
    def called(self) -> str:
        """The config name of the class."""
        return member_name(type(self), "reward")

    def train(self, mode: bool = True) -> "Reward":
        """Stay in evaluation mode: the networks of a reward are frozen.

        Args:
            mode: Not used.
        """
        return super().train(False)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            freeze(value)
        super().__setattr__(name, value)

    def _checked(self, x1: Tensor, condition: Condition) -> Tensor:
        freeze(self.to(x1.device))  # a network that is shared may have been trained since
        value = self(x1, condition.each(own))
        if not isinstance(value, Tensor) or value.shape != x1.shape[:1]:
            what = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise FlowportError(
                f"reward={self.called} returned {what}: a reward gives one number for each point, ({len(x1)},)"
            )
        value = value if value.dtype in (torch.float32, torch.float64) else value.float()
        bad = int((~value.isfinite()).sum())
        if bad:
            found = "NaN" if bool(value.isnan().any()) else "an infinite value"
            lost = int((~x1.isfinite()).flatten(1).any(1).sum())
            raise FlowportError(
                f"reward={self.called} returned {found} for {bad} of {len(x1)} points, of which {lost} were not finite "
                "themselves"
            )
        return value


def _is_same(remembered: tuple[Tensor, int], x1: Tensor) -> bool:
    """Whether points are those that were remembered, unchanged since; these keep their memory from another use."""
    points, version = remembered
    if x1.is_inference() or x1.device != points.device or x1.dtype != points.dtype:
        return False
    placed = (x1.data_ptr(), x1.shape, x1.stride(), x1._version)
    return placed == (points.data_ptr(), points.shape, points.stride(), version)


class ModalityReward(Reward, ABC, Generic[Kind]):
    """A reward that reads points by their modality.

    To add a member: subclass it and set the attributes; else as for ``Reward``.

    Args:
        modality: Modality of the points; None for that of the target, which ``check`` sets.

    Attributes:
        kind: Class of the modality.
        meant: Its name in messages.
    """

    kind: type[Kind]
    meant: ClassVar[str]

    def __init__(self, modality: Kind | None = None) -> None:
        super().__init__()
        self.modality = modality

    def fits(self, target: Distribution) -> bool:
        """Whether the reward is defined for points of the target.

        Args:
            target: The target.
        """
        return isinstance(target.modality, self.kind)

    def check(self, source: Distribution, target: Distribution) -> None:
        """Check the modality of the target and take it where none was given.

        Args:
            source: The source; not used.
            target: The target.

        Raises:
            FlowportError: When the modality of the target is not a ``kind``.
        """
        if not self.fits(target):
            raise FlowportError(
                f"reward={self.called} is for {self.meant}, but the target is {type(target.modality).__name__} with "
                f"points {tuple(target.event_shape)}"
            )
        self.modality = self.modality or target.modality  # type: ignore[assignment]

    @property
    def known(self) -> Kind:
        """The modality, given or taken from the target.

        Raises:
            FlowportError: When there is none.
        """
        if self.modality is None:
            raise FlowportError(
                f"reward={self.called} does not know its modality: give reward.modality, or ask check first"
            )
        return self.modality


def own(v: Tensor) -> Tensor:
    """A detached copy of at least float32 that can require a gradient.

    Args:
        v: A tensor.
    """
    v = v.detach().clone()
    return v.float() if v.dtype in HALVES else v


def exact(x: Tensor) -> torch.autocast:
    """A context without autocast.

    Args:
        x: Tensor on whose device autocast is switched off.
    """
    return torch.autocast(x.device.type, enabled=False)


def freeze(network: nn.Module) -> None:
    """Set a network to evaluation mode and its parameters to need no gradient, also for TorchScript.

    Args:
        network: The network.
    """
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)


def in_its_precision(network: nn.Module, x: Tensor) -> Tensor:
    """Points in the dtype of a network's weights; unchanged for a network without weights.

    Args:
        network: The network.
        x: Points, (B, *D).
    """
    return x.to(next((p.dtype for p in network.parameters()), x.dtype))


def tried(reward: Reward, target: Distribution, ask: Callable[[Tensor], Tensor]) -> Tensor:
    """What a network of a reward returns for two points of the target's shape, zeros.

    Args:
        reward: The reward, which is moved to the CPU and frozen.
        target: The target.
        ask: The network, (2, *D) -> result.

    Raises:
        FlowportError: When the network cannot take such points.
    """
    points = torch.zeros(2, *target.event_shape)
    try:
        with torch.no_grad():
            freeze(reward.to("cpu"))
            return ask(points)
    except RuntimeError as error:
        message = str(error).strip().splitlines()[-1]
        raise FlowportError(
            f"reward={reward.called} has a network that cannot take points of the target, "
            f"{tuple(target.event_shape)}: {message}"
        ) from None
