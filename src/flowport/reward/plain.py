"""A user's own module or function as a reward, and whether a reward has a gradient, found by trying."""

import contextlib
import functools
import inspect
import logging
import traceback
from collections.abc import Callable
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError, member_name
from flowport.reward.base import Reward, exact, in_its_precision, own
from flowport.types import Condition

logger = logging.getLogger(__name__)
TRIED = 8
"""Points of the target on which a reward of the user's is tried before anything is trained."""
ALONE = 1e-2
"""Largest change of a point's reward by the points beside it without a warning, in standard deviations of rewards."""


@final
class PlainReward(Reward):
    """Reward by a plain module or function f: r = f(x1), or r = f(x1, condition), in nats.

    f may return a tensor, an array or a list of B numbers, or one of shape (B, 1). A module is frozen, set to
    evaluation mode and moved to the points' device, and gets points in the precision of its weights. What f raises
    becomes one sentence with the line that raised it.

    ``check`` tries f on points of the target: ``differentiable`` is then whether its results depend on the points by
    operations with a gradient that is not zero everywhere. An attribute ``differentiable = False`` of f is kept.

    Args:
        function: f; its second argument is given the condition where it has no default or is called ``condition``.
        name: What messages call it; None for its own name.

    Raises:
        FlowportError: For what cannot be called with one or two arguments.
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        super().__init__()
        self.name = name or name_of(function)
        self.told = _takes_condition(function, self.name)
        self.function = function
        self.differentiable = bool(getattr(function, "differentiable", True))

    @property
    def called(self) -> str:
        """The name of the function, or of the module's class."""
        return self.name

    def check(self, source: Distribution, target: Distribution) -> None:
        """Try the function on points of the target, and find whether it has a gradient.

        Args:
            source: The source, whose points a condition may hold.
            target: The target.

        Raises:
            FlowportError: When the function fails on such points or gives no reward for each.
        """
        generator = torch.Generator().manual_seed(0)
        start, end = source.sample(TRIED, generator), target.sample(TRIED, generator)
        condition = Condition(start.label if end.label is None else end.label, start.x)
        try:
            self._try(end.x, condition)
        except FlowportError:
            if not torch.cuda.is_available():
                raise
            device = torch.device("cuda")  # a function may be written for the GPU alone
            self._try(end.x.to(device), condition.each(lambda v: v.to(device)))

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        """Rewards f(x1) or f(x1, condition), (B,).

        Args:
            x1: Points, (B, *D).
            condition: What the flow is conditioned on, B rows.

        Raises:
            FlowportError: When the function raises an exception.
        """
        x = in_its_precision(self.function, x1) if isinstance(self.function, nn.Module) else x1
        try:
            found = self.function(x, condition) if self.told else self.function(x)
        except (FlowportError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            none = "; this flow is told no class, so condition.label is None"
            unseen = "; condition.source is None (a flow with conditioning=source has its start there)"
            raise FlowportError(
                f"reward={self.name} failed on points {tuple(x1.shape)} on {x1.device.type}: {raised(error)}"
                f"{none if self.told and condition.label is None else ''}"
                f"{unseen if self.told and condition.source is None else ''}"
            ) from error
        return _as_rewards(found, x1, self.name)

    def _try(self, x: Tensor, condition: Condition) -> None:
        value = self.value(x, condition)
        self.differentiable = self.differentiable and has_gradient(self, x, condition)
        moved = float((self.value(x[:2], condition[:2]) - value[:2]).abs().max())
        if moved > ALONE * float(value.std()) + 1e-6 * float(value.abs().max()):
            logger.warning(
                "reward=%s gives a point another number (by %.2g) where others stand beside it: the tilt p e^{λr} is "
                "defined for rewards of the point alone",
                self.name,
                moved,
            )


def adapted(found: Any, name: str | None = None) -> Reward:
    """A reward as it is, and a plain module or function as a reward.

    Args:
        found: A reward, a module or a function.
        name: What messages call a plain one; None for its own name.

    Raises:
        FlowportError: For anything else, and for a class that was not built.
    """
    if isinstance(found, Reward):
        return found
    if inspect.isclass(found) or not callable(found):
        what = f"the class {found.__name__}" if inspect.isclass(found) else f"{type(found).__name__} {found!s:.40}"
        raise FlowportError(
            f"reward is {what}: give a function or a module r(x1) -> (B,), or a member of flowport.reward"
        )
    return PlainReward(found, name)


def name_of(function: Any) -> str:
    """The name of a function, or of the class of a module, in snake case.

    Args:
        function: The function, module or class.
    """
    if isinstance(function, functools.partial):
        return name_of(function.func)
    name = str(getattr(function, "__name__", type(function).__name__))
    return "function" if name == "<lambda>" else member_name(name, "reward")


def raised(error: BaseException) -> str:
    """An exception as one line: file and line of the innermost call outside of torch, its type and its message.

    Args:
        error: What a user's code raised.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    place = f"{frames[-1].filename} line {frames[-1].lineno}: " if frames else ""
    lines = str(error).strip().splitlines() or [""]
    return f"{place}{type(error).__name__}: {lines[0]}"


def has_gradient(reward: Reward, x1: Tensor, condition: Condition) -> bool:
    """Whether rewards of points have a gradient in the points, found by differentiating them.

    One that is zero at every point, while the rewards differ, is that of a step function, and none to learn from.

    Args:
        reward: The reward.
        x1: Points, (B, *D).
        condition: What the flow is conditioned on, B rows.
    """
    with torch.inference_mode(False), torch.enable_grad(), exact(x1):
        x = own(x1).requires_grad_()
        try:
            value = reward(x, condition.each(own))
            gradient = torch.autograd.grad(value.sum(), x, allow_unused=True)[0] if value.requires_grad else None
        except (FlowportError, RuntimeError):  # for instance numpy, which takes no tensor that needs a gradient
            return False
    return gradient is not None and (bool((gradient != 0).any()) or bool((value == value[0]).all()))


def _takes_condition(function: Any, name: str) -> bool:
    """Whether a function is called with the condition as well."""
    if not callable(function):
        raise FlowportError(f"reward={name} cannot be called: give a function or a module r(x1) -> (B,)")
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    except (TypeError, ValueError):
        return False
    found = list(parameters.values())
    places = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    some = any(p.kind is p.VAR_POSITIONAL for p in found)
    needed = [p.name for p in found if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [p for p in places if p.default is p.empty]
    if len(required) > 2 or len(needed) > len(required) or not (places or some):
        raise FlowportError(
            f"reward={name} is called with the points, and at most the condition beside them, but it takes "
            f"{', '.join(needed) or 'no arguments'}: bind the others, by reward.<name>=<value> or functools.partial"
        )
    return len(places) > 1 and (places[1].default is places[1].empty or places[1].name == "condition")


def _as_rewards(found: Any, x1: Tensor, name: str) -> Tensor:
    """What a function returned as a tensor on the points' device, (B,) where it is one number for each point."""
    if isinstance(found, list | tuple) and found and all(isinstance(each, Tensor) for each in found):
        found = torch.stack(list(found))
    if isinstance(found, np.ndarray | list | tuple):
        with contextlib.suppress(TypeError, ValueError):
            found = torch.as_tensor(np.asarray(found, dtype=np.float64), device=x1.device).float()
    if not isinstance(found, Tensor):
        raise FlowportError(
            f"reward={name} returned {type(found).__name__}: a reward gives one number for each point, ({len(x1)},)"
        )
    found = found.to(x1.device)
    return found[:, 0] if found.shape == (len(x1), 1) else found
