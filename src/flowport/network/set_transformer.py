"""Attention over the points of a cloud: the order of the points does not matter."""

import torch
from torch import Tensor, nn

from flowport.errors import FlowportError
from flowport.network.base import Network
from flowport.network.block import Attention, zeroed
from flowport.network.dit import DiTBlock, modulated
from flowport.network.embedding import Embedding
from flowport.network.induced import InducedAttention
from flowport.types import Condition, ConditionShape, EventShape

WAVES = (1.0, 2.0, 4.0)


class SetTransformer(Network):
    """Every point a token (its coordinates, their sines and cosines), ``depth`` transformer blocks modulated by time
    and label, one vector out per point: (B, d, N) -> (B, heads·d, N), for any N.

    induced: None for attention of all points to all; a number for attention by way of so many learnt points, cheaper
    for clouds of many more. Permutation equivariant: permuted points give the same vectors, permuted. The output starts
    at exactly 0.
    (Lee et al. 2019, Set Transformer; Peebles and Xie 2023 for the modulation.) Raises FlowportError for points that
    are not
    clouds (d, N).
    """

    def __init__(
        self,
        event_shape: EventShape,
        condition: ConditionShape,
        heads: int = 1,
        *,
        width: int = 64,
        depth: int = 3,
        attention_heads: int = 4,
        induced: int | None = None,
    ) -> None:
        super().__init__(event_shape, condition, heads)
        if len(event_shape) != 2:
            raise FlowportError(f"the set transformer works on clouds (d, N), not on points of shape {event_shape}")
        if min(width, depth, attention_heads, 1 if induced is None else induced) < 1:
            raise FlowportError("the set transformer needs width, depth, attention_heads and induced of at least 1")
        self.embedding = Embedding(width, condition)
        self.first = nn.Linear(self.channels_in * (1 + 2 * len(WAVES)), width)

        def attention() -> nn.Module:
            if induced is None:
                return Attention(width, attention_heads)
            return InducedAttention(width, attention_heads, induced)

        self.blocks = nn.ModuleList(DiTBlock(width, attention, 2) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, self.channels_out))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        embedding = self.embedding(t, condition)
        places = self.with_source(x, condition).transpose(1, 2)
        waves = [f(w * places) for w in WAVES for f in (torch.sin, torch.cos)]
        tokens = self.first(torch.cat([places, *waves], 2))
        for block in self.blocks:
            tokens = block(tokens, embedding)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, 2)
        return self.out(modulated(tokens, shift, scale)).transpose(1, 2)
