"""Permutation-equivariant transformer on point clouds."""

from typing import Annotated

import torch
from torch import Tensor, nn

from flowport.errors import FlowportError, Range
from flowport.network.base import Network
from flowport.network.block import Attention, zeroed
from flowport.network.dit import DiTBlock, modulated
from flowport.network.embedding import Embedding
from flowport.network.induced import InducedAttention
from flowport.network.pieces import recomputed
from flowport.types import Condition, ConditionShape, EventShape

WAVES = (1.0, 2.0, 4.0)
"""Angular frequencies of the sine and cosine features of the coordinates."""


class SetTransformer(Network):
    """Transformer on point clouds: every point is a token, modulated by time, label and step; no positions.

    It maps (B, d, N) to (B, heads·d, N) for any N and is equivariant under permutations of the points. A token is
    made of the point's coordinates and their sines and cosines; with a source, also of those of the point of x0 with
    the same index. The output starts at exactly 0.

    Args:
        event_shape: Shape (d, N) of one cloud.
        condition: What ``forward`` must accept beside x and t.
        heads: Number of outputs per coordinate.
        width: Width of a token.
        depth: Number of transformer blocks.
        attention_heads: Number of attention heads; it must divide ``width``.
        induced: Number of learned inducing points of the attention, in O(N · induced); None for full attention in
            O(N²).
        checkpointing: Whether a training step keeps the inputs of the blocks only and computes the rest a second time
            for the gradient: less memory, more time, the same gradients.

    Raises:
        FlowportError: For points that are not clouds (d, N), options below 1, and heads that do not divide the width.

    References:
        Lee et al. 2019, "Set Transformer: a framework for attention-based permutation-invariant neural networks",
        arXiv:1810.00825.
        Peebles and Xie 2022, "Scalable diffusion models with transformers", arXiv:2212.09748.
    """

    def __init__(
        self,
        event_shape: EventShape,
        condition: ConditionShape,
        heads: int = 1,
        *,
        width: Annotated[int, Range(most=10**6)] = 64,
        depth: Annotated[int, Range(most=1000)] = 3,
        attention_heads: int = 4,
        induced: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(event_shape, condition, heads)
        self.checkpointing = checkpointing
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
            tokens = recomputed(block, self.checkpointing, tokens, embedding)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, 2)
        return self.out(modulated(tokens, shift, scale)).transpose(1, 2)
