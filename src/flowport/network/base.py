"""What every network promises: points, times and a condition in; ``heads`` numbers per coordinate out."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.tensors import over
from flowport.types import Condition, ConditionShape, EventShape


class Network(nn.Module, ABC):
    """A function of (x, t, condition). What it means (velocity, endpoint, score, …) is the prediction's business.

    A yaml holds options only; whoever builds the run supplies the other three arguments:
    event_shape: D of one point, channels first; condition: what ``forward`` must accept; heads: outputs per coordinate.
    """

    def __init__(self, event_shape: EventShape, condition: ConditionShape, heads: int) -> None:
        super().__init__()
        if len(event_shape) == 0 or min(event_shape) < 1:
            raise FlowportError(
                f"a network needs points of at least one dimension of positive size, not of shape {event_shape}"
            )
        if heads < 1:
            raise FlowportError(f"a network needs at least one head, not {heads}")
        self.event_shape, self.condition, self.heads = tuple(event_shape), condition, heads
        self.channels_in = event_shape[0] * (2 if condition.source else 1) + condition.droppable
        self.channels_out = event_shape[0] * heads

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Network output at points x and times t.

        x: (B, C, *rest) with (C, *rest) the event shape; t: (B,) in [0, 1], float32 or float64 whatever x is.
        condition.label: (B,) classes, −1 where dropped, or (B, k) values, a NaN row where dropped; None drops all.
        condition.source: x0, (B, C, *rest), needed iff built with ``condition.source``; rows of NaN where dropped.
        condition.step: (B,) in [0, 1], 0 where it is None; only for networks built with ``condition.step``.
        Returns (B, heads·C, *rest): head h is [:, h·C : (h+1)·C].
        Raises FlowportError where a label, source or step is given to a network built without it, or a source is
        missing.
        """

    def with_source(self, x: Tensor, condition: Condition) -> Tensor:
        """x, followed along its first dimension by x0 where the network was built to see it: (B, C or 2C, *rest).

        Where x0 may be missing, a row without it has zeros instead, and one more channel is 1 there and 0 elsewhere.
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


def told_step(shape: ConditionShape, t: Tensor, condition: Condition) -> Tensor | None:
    """The step (B,) of a network built to see it, 0 where none is told; None for a network built without.

    Raises FlowportError where a step is told to a network built without.
    """
    if not shape.step:
        if condition.step is not None:
            raise FlowportError(
                "this network was built without the length of a step but is told one: use objective=shortcut"
            )
        return None
    return torch.zeros_like(t) if condition.step is None else condition.step


def image_shape(event_shape: EventShape, multiple: tuple[int, int], name: str) -> tuple[int, int, int]:
    """(C, H, W) of images whose H and W are divisible by ``multiple``. Raises FlowportError for every other shape."""
    if len(event_shape) != 3:
        raise FlowportError(f"{name} works on images (C, H, W), not on points of shape {event_shape}: use network=mlp")
    channels, height, width = event_shape
    if height % multiple[0] or width % multiple[1]:
        raise FlowportError(
            f"{name} with these options needs a height divisible by {multiple[0]} and a width divisible by "
            f"{multiple[1]}, not {height} x {width}: pad or resize the data, or change the options of the network"
        )
    return channels, height, width
