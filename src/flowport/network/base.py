"""The interface of the networks f(x, t, condition), and checks that several of them share."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowport.errors import Checked, FlowportError
from flowport.network.pieces import in_pieces
from flowport.network.replay import Replay
from flowport.tensors import over
from flowport.types import Condition, ConditionShape, EventShape


def _compilable(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor of a member with the keyword ``compile`` of ``Network`` besides its own."""
    signature = inspect.signature(init)
    key = inspect.Parameter("compile", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
    own = list(signature.parameters.values())
    last = len(own) - (own[-1].kind is inspect.Parameter.VAR_KEYWORD)

    @functools.wraps(init)
    def made(self: Any, *args: Any, compile: bool = False, **options: Any) -> None:
        init(self, *args, **options)
        self.to_compile = compile

    made.__signature__ = signature.replace(parameters=[*own[:last], key, *own[last:]])  # type: ignore[attr-defined]
    made.__annotations__ = {**init.__annotations__, "compile": bool}
    return made


class Network(Checked, nn.Module, ABC):
    """A neural network f(x, t, condition) with ``heads`` outputs for every coordinate of a point.

    What the output means (velocity, end point, score, …) is defined by the prediction. A member provides ``forward``
    and passes the three arguments below to ``super().__init__``; its own options are keyword-only and have defaults.
    In evaluation mode a row of the output is a function of the same row of x, t and condition only. Under
    autocast the time is embedded in float32. Members with a zero-initialised last layer start at exactly 0. Every
    member takes ``compile`` as a keyword too, without declaring it.

    To add a member: subclass this class in a new module of this folder, export it in ``__init__.py``, add
    ``configs/network/<name>.yaml`` with ``_target_`` and ``_partial_: true`` that holds the options only, and register
    it in ``SMALL`` and ``LAST`` of tests/network/test_networks.py.

    Args:
        event_shape: Shape D = (C, *rest) of one point, channels first.
        condition: What ``forward`` must accept beside x and t.
        heads: Number of outputs per coordinate.
        compile: Whether training compiles the network by ``torch.compile``. Its weights, their names and, up to
            rounding and the random numbers of dropout, its outputs stay as they are. Nothing but training compiles:
            neither the moving average, nor translation, nor evaluation.

    Attributes:
        to_compile: The argument ``compile``.
        channels_in: Channels of ``with_source(x, condition)``: C, or 2C with the source, plus 1 where the source may be
            missing.
        channels_out: Channels of the output, heads·C.
        capturable: Whether a CUDA graph can contain the network: its operations depend on shapes only, and it reads
            nothing from the device.
        replay: Replays calls that need no gradient of the weights (``flowport.network.replay``); None for none.
        piece_rows: Rows that are evaluated at a time (``flowport.network.pieces``); None for all.

    Raises:
        FlowportError: For an empty event shape, a dimension below 1, or fewer than one head.
    """

    capturable: bool = True
    replay: Replay | None = None
    piece_rows: int | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = _compilable(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self, event_shape: EventShape, condition: ConditionShape, heads: int, *, compile: bool = False
    ) -> None:
        super().__init__()
        self.to_compile = compile
        if len(event_shape) == 0 or min(event_shape) < 1:
            raise FlowportError(
                f"a network needs points of at least one dimension of positive size, not of shape {event_shape}"
            )
        if heads < 1:
            raise FlowportError(f"a network needs at least one head, not {heads}")
        self.event_shape, self.condition, self.heads = tuple(event_shape), condition, heads
        self.channels_in = event_shape[0] * (2 if condition.source else 1) + condition.droppable
        self.channels_out = event_shape[0] * heads

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """``forward`` in pieces, replayed where that is on and no gradient of the weights is wanted."""
        return in_pieces(self._evaluated, self.piece_rows, x, t, condition, self.training)

    def _evaluated(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if self.replay is None or self.training or (torch.is_grad_enabled() and not self.replay.gradients):
            return super().__call__(x, t, condition)
        return self.replay(x, t, condition)

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Network output at points x and times t.

        Args:
            x: Points, (B, C, *rest), with (C, *rest) the event shape.
            t: Times in [0, 1], (B,), float32 or float64 whatever the dtype of x.
            condition: ``label``: classes (B,), −1 where dropped, or values (B, k), a row of NaN where dropped; None
                drops all. ``source``: x0 (B, C, *rest), rows of NaN where dropped; required if and only if the network
                was built with it. ``step``: step lengths (B,) in [0, 1]; None stands for 0.

        Returns:
            Tensor (B, heads·C, *rest); head h is ``[:, h·C : (h+1)·C]``.

        Raises:
            FlowportError: When a label, source or step is given to a network built without it, or a required source is
                missing.
        """

    def with_source(self, x: Tensor, condition: Condition) -> Tensor:
        """Points x with the source x0 appended as further channels, for networks built with a source.

        Where x0 may be missing, a row without it has zeros in its place, and one more channel marks it: 1 in rows
        without x0, 0 in the others.

        Args:
            x: Points, (B, C, *rest).
            condition: Its ``source`` is x0, (B, C, *rest), with rows of NaN where it is missing.

        Returns:
            Tensor (B, channels_in, *rest).

        Raises:
            FlowportError: When a source is given to a network built without it, or a required source is missing.
        """
        if not self.condition.source:
            if condition.source is not None:
                raise FlowportError(
                    f"{type(self).__name__} was built without x0 but is given one: use conditioning=source"
                )
            return x
        if condition.source is None:
            raise FlowportError(
                f"{type(self).__name__} was built to see x0 (conditioning=source), but no source is given"
            )
        source = condition.source.to(x.dtype)
        if not self.condition.droppable:
            return torch.cat([x, source], 1)
        missing = over(source.flatten(1).isnan().any(1), source)
        indicator = missing.to(x.dtype).expand(-1, 1, *x.shape[2:])
        return torch.cat([x, torch.where(missing, 0, source), indicator], 1)


def checked_step(shape: ConditionShape, t: Tensor, condition: Condition) -> Tensor | None:
    """The step length d of a condition, checked against what the network was built for.

    Args:
        shape: What the network was built to accept.
        t: Times (B,), whose shape and dtype a step of zero takes.
        condition: The condition of the call; its ``step`` is (B,) or None.

    Returns:
        d (B,), 0 where the condition has none; None for a network built without a step.

    Raises:
        FlowportError: When a step is given to a network built without it.
    """
    if not shape.step:
        if condition.step is not None:
            raise FlowportError(
                "this network was built without the length of a step but is given one: use objective=shortcut"
            )
        return None
    return torch.zeros_like(t) if condition.step is None else condition.step


def image_shape(event_shape: EventShape, multiple: tuple[int, int], name: str) -> tuple[int, int, int]:
    """The event shape as (C, H, W), checked to be an image whose height and width are divisible by ``multiple``.

    Args:
        event_shape: Shape D of one point.
        multiple: Required divisors of height and width.
        name: Name of the network in the error message.

    Returns:
        (C, H, W).

    Raises:
        FlowportError: For a shape that is not (C, H, W) or is not divisible.
    """
    if len(event_shape) != 3:
        raise FlowportError(f"{name} works on images (C, H, W), not on points of shape {event_shape}: use network=mlp")
    channels, height, width = event_shape
    if height % multiple[0] or width % multiple[1]:
        raise FlowportError(
            f"{name} with these options needs a height divisible by {multiple[0]} and a width divisible by "
            f"{multiple[1]}, not {height} x {width}: pad or resize the data, or change the options of the network"
        )
    return channels, height, width


def level_heights(
    event_shape: EventShape, channels: Sequence[int], attention: Sequence[int], groups: int, name: str
) -> list[int]:
    """The image heights of the levels of a U-Net, each half of the one before, checked against its options.

    Args:
        event_shape: Shape D of one point.
        channels: Number of channels of every level.
        attention: Heights at which there is self-attention.
        groups: Groups of the normalisation, which must divide the channels.
        name: Name of the network in the error messages.

    Raises:
        FlowportError: For no level, points that are not images of a divisible size, channels that the groups do not
            divide, and attention at a height that no level has.
    """
    if not channels:
        raise FlowportError("network.multipliers=[] makes no level: write for instance network.multipliers=[1,2]")
    if wrong := [c for c in channels if c % groups]:
        raise FlowportError(f"{name} normalises in {groups} groups, so {wrong[0]} channels do not work: use width=32")
    divisor = 2 ** (len(channels) - 1)
    _, height, _ = image_shape(event_shape, (divisor, divisor), name)
    heights = [height // 2**level for level in range(len(channels))]
    if absent := [a for a in attention if a not in heights]:
        raise FlowportError(f"{name} has no level of height {absent[0]} to attend at; it has {heights}")
    return heights
