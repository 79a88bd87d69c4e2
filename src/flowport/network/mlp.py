"""Multilayer perceptron on the concatenation of point, time and condition."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import prod
from typing import Annotated

import torch
from torch import Tensor, nn

from flowport.errors import FlowportError, Range
from flowport.network.base import Network, checked_step
from flowport.network.embedding import label_embedding
from flowport.types import Condition, ConditionShape, EventShape

selu = partial(nn.SELU, inplace=True)


class MLP(Network):
    """Multilayer perceptron on [x, t], Linear(d + 1, width) followed by ``depth`` times activation and Linear.

    Points of any event shape are flattened to d numbers. Time features, x0 and the step length are concatenated to x;
    the label's embedding is added after the first linear layer, which equals concatenating it. With the defaults and no
    condition this is ``torchcfm.models.MLP(dim, time_varying=True)`` with w=64.

    Args:
        event_shape: Shape D of one point.
        condition: What ``forward`` must accept beside x and t.
        heads: Number of outputs per coordinate.
        width: Width of the hidden layers.
        depth: Number of hidden layers.
        activation: Builds an activation.
        frequencies: m, for the further time features sin and cos of πt, 2πt, …, 2^(m−1) πt.

    Raises:
        FlowportError: For a width or depth below 1, and negative frequencies.

    References:
        Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
        arXiv:2302.00482.
        Klambauer et al. 2017, "Self-normalizing neural networks", arXiv:1706.02515.
        Tancik et al. 2020, "Fourier features let networks learn high frequency functions in low dimensional domains",
        arXiv:2006.10739.
    """

    def __init__(
        self,
        event_shape: EventShape,
        condition: ConditionShape,
        heads: int = 1,
        *,
        width: Annotated[int, Range(most=10**6)] = 64,
        depth: Annotated[int, Range(most=1000)] = 3,
        activation: Callable[[], nn.Module] = selu,
        frequencies: Annotated[int, Range(least=0, most=64)] = 0,
    ) -> None:
        super().__init__(event_shape, condition, heads)
        if width < 1 or depth < 1 or frequencies < 0:
            raise FlowportError(
                f"the MLP needs width and depth of at least 1 and frequencies ≥ 0, not {width}, {depth}, {frequencies}"
            )
        self.turns: Tensor
        self.register_buffer("turns", torch.pi * 2.0 ** torch.arange(frequencies), persistent=False)
        rest = prod(event_shape[1:])
        self.first = nn.Linear(self.channels_in * rest + 1 + condition.step + 2 * frequencies, width)
        self.label = label_embedding(condition, width)
        sizes = [width] * depth + [self.channels_out * rest]
        self.layers = nn.Sequential(*(part for a, b in pairwise(sizes) for part in (activation(), nn.Linear(a, b))))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        points = self.with_source(x, condition)
        # The cost of so small a network is Python's overhead, not arithmetic: vectors are not reshaped.
        flat = points if points.ndim == 2 else points.flatten(1)
        time = t.to(x.dtype)[:, None]
        if len(self.turns):
            turned = time * self.turns.to(x.dtype)
            time = torch.cat((time, turned.sin(), turned.cos()), 1)
        step = checked_step(self.condition, t, condition)
        if step is not None:
            time = torch.cat((time, step.to(x.dtype)[:, None]), 1)
        hidden = self.label(self.first(torch.cat((flat, time), 1)), condition.label)
        out = self.layers(hidden)
        return out if x.ndim == 2 else out.view(-1, self.channels_out, *self.event_shape[1:])
