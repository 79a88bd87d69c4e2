"""What fine-tuning wants: a number for every point that a flow makes, and its gradient."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError, member_name
from flowport.modality.base import Modality
from flowport.types import Condition

Kind = TypeVar("Kind", bound=Modality)
HALVES = (torch.bfloat16, torch.float16)


class Reward(nn.Module, ABC):
    """r(x1, condition), in nats: fine-tuning by λ r aims at p1(x1) e^{λ r(x1)} (Domingo-Enrich et al. 2024).

    Members write ``forward``; r of a point may depend on that point and its condition alone, not on its batch. Callers
    ask for ``value`` or ``value_and_gradient``, which see to precision, modes and bad results.
    Networks that a reward holds are frozen and stay in evaluation mode. differentiable: whether ``forward`` has a
    gradient by the points; where not, only objectives that need none can use it.
    """

    differentiable: bool = True
    learnt: ClassVar[bool] = False
    """Whether it was learnt for its run, from points as the flow makes them: then it travels with the run's weights."""

    @abstractmethod
    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        """x1: encoded points (B, *D) as the flow makes them -> (B,)."""

    def check(self, source: Distribution, target: Distribution) -> None:
        """Asked once when a fine-tuning is built: raises FlowportError where this reward cannot be evaluated on
        points of
        ``target``. A member whose modality was left null takes that of the target here."""
        return

    def value(self, x1: Tensor, condition: Condition) -> Tensor:
        """r without a gradient, (B,), float32 or float64 whatever the autocast.

        Raises FlowportError for a result of another shape and for one that is not finite.
        """
        with torch.inference_mode(False), torch.no_grad(), exact(x1):
            return self._judged(own(x1), condition)

    def value_and_gradient(self, x1: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """r, (B,), and ∇r by the points, (B, *D), both float32 or float64; also inside no_grad and inference mode.

        Raises FlowportError as ``value`` does, for a reward without a gradient, and for a gradient that is not finite.
        """
        if not self.differentiable:
            raise FlowportError(
                f"reward={self.called} has no gradient: choose an objective that needs none, or another reward"
            )
        with torch.inference_mode(False), torch.enable_grad(), exact(x1):  # backward, too, would obey an autocast
            x = own(x1).requires_grad_()
            value = self._judged(x, condition)
            gradient = torch.autograd.grad(value.sum(), x, allow_unused=True)[0] if value.requires_grad else None
        if gradient is None:
            raise FlowportError(
                f"reward={self.called} does not depend on the points by operations that torch can differentiate: "
                "write it in torch without detaching, or set differentiable = False"
            )
        bad = int((~gradient.isfinite()).flatten(1).any(1).sum())
        if bad:
            raise FlowportError(f"reward={self.called} has a gradient that is not finite for {bad} of {len(x1)} points")
        return value.detach(), gradient

    @property
    def called(self) -> str:
        """The name of the class as configs write it."""
        return member_name(type(self), "reward")

    def train(self, mode: bool = True) -> "Reward":
        """Stay in evaluation mode: the networks of a reward are frozen."""
        return super().train(False)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            freeze(value)
        super().__setattr__(name, value)

    def _judged(self, x1: Tensor, condition: Condition) -> Tensor:
        freeze(self.to(x1.device))  # who shares a network with this reward may have trained it since
        told = condition.each(own)
        value = self(x1, told)
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


class ModalityReward(Reward, ABC, Generic[Kind]):
    """A reward that reads points through a modality: the one given, or that of the target (null).

    kind: of modality; meant: what that is called. Raises FlowportError for a target of another kind.
    """

    kind: type[Kind]
    meant: ClassVar[str]

    def __init__(self, modality: Kind | None = None) -> None:
        super().__init__()
        self.modality = modality

    def fits(self, target: Distribution) -> bool:
        return isinstance(target.modality, self.kind)

    def check(self, source: Distribution, target: Distribution) -> None:
        if not self.fits(target):
            raise FlowportError(
                f"reward={self.called} is for {self.meant}, but the target is {type(target.modality).__name__} with "
                f"points {tuple(target.event_shape)}"
            )
        self.modality = self.modality or target.modality  # type: ignore[assignment]

    @property
    def known(self) -> Kind:
        """The modality. Raises FlowportError where none was given or found."""
        if self.modality is None:
            raise FlowportError(
                f"reward={self.called} does not know its modality: give reward.modality, or ask check first"
            )
        return self.modality


def own(v: Tensor) -> Tensor:
    """A copy without history, usable for gradients, of at least float32."""
    v = v.detach().clone()
    return v.float() if v.dtype in HALVES else v


def exact(x: Tensor) -> torch.autocast:
    """No autocast on the device of x."""
    return torch.autocast(x.device.type, enabled=False)


def freeze(network: nn.Module) -> None:
    """Evaluation mode, no gradients; TorchScript has no requires_grad_ of its own."""
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)


def in_its_precision(network: nn.Module, x: Tensor) -> Tensor:
    """x in the precision of the network's weights; unchanged where it has none."""
    return x.to(next((p.dtype for p in network.parameters()), x.dtype))


def tried(reward: Reward, target: Distribution, ask: Callable[[Tensor], Tensor]) -> Tensor:
    """What a network of the reward's says to two points of the target's shape. Raises FlowportError where it cannot."""
    points = torch.zeros(2, *target.event_shape)
    try:
        with torch.no_grad():
            freeze(reward.to("cpu"))
            return ask(points)
    except RuntimeError as error:
        told = str(error).strip().splitlines()[-1]
        raise FlowportError(
            f"reward={reward.called} has a network that cannot take points of the target, "
            f"{tuple(target.event_shape)}: {told}"
        ) from None
