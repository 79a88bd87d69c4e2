"""A multilayer perceptron on [x, t]: with the defaults, exactly torchcfm's network of the 2-D examples."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.network.base import Network, told_step
from flowport.network.embedding import label_embedding
from flowport.types import Condition, ConditionShape, EventShape

selu = partial(nn.SELU, inplace=True)


class MLP(Network):
    """Linear(d + 1, width), then ``depth`` times activation and Linear; the raw time is one more coordinate.

    frequencies m: so are sin and cos of πt, 2πt, …, 2^(m−1) πt. So is the length of a step, where it is seen.

    Any event shape is flattened; x0 is concatenated, a label's embedding is added to the first hidden layer (which is
    the same as concatenating it). With width=64, depth=3 and SELU this is torchcfm.models.MLP(dim, time_varying=True)
    (Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport, 2023).
    """

    def __init__(
        self,
        event_shape: EventShape,
        condition: ConditionShape,
        heads: int = 1,
        *,
        width: int = 64,
        depth: int = 3,
        activation: Callable[[], nn.Module] = selu,
        frequencies: int = 0,
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
        # A network this small is bound by Python, not by arithmetic: vectors pass without any reshaping.
        flat = points if points.ndim == 2 else points.flatten(1)
        time = t.to(x.dtype)[:, None]
        if len(self.turns):
            turned = time * self.turns.to(x.dtype)
            time = torch.cat((time, turned.sin(), turned.cos()), 1)
        step = told_step(self.condition, t, condition)
        if step is not None:
            time = torch.cat((time, step.to(x.dtype)[:, None]), 1)
        hidden = self.label(self.first(torch.cat((flat, time), 1)), condition.label)
        out = self.layers(hidden)
        return out if x.ndim == 2 else out.view(-1, self.channels_out, *self.event_shape[1:])
