"""Attention by way of a few learnt points: its cost grows with the points of a cloud, not with their square."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from flowport.errors import FlowportError


class CrossAttention(nn.Module):
    """softmax(Q(x) K(y)ᵀ / √w) V(y), many heads: (B, N, width) and (B, M, width) -> (B, N, width)."""

    def __init__(self, width: int, attention_heads: int) -> None:
        super().__init__()
        if width % attention_heads:
            raise FlowportError(f"{attention_heads} attention heads do not divide a width of {width}")
        self.attention_heads = attention_heads
        self.q, self.kv, self.merge = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q = self.q(x).unflatten(2, (self.attention_heads, -1)).transpose(1, 2)
        k, v = self.kv(y).unflatten(2, (2, self.attention_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.merge(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class InducedAttention(nn.Module):
    """tokens attend to H, where ``points`` learnt vectors I attended to the tokens: H = I + attention(I, tokens).

    (B, N, width) -> (B, N, width) in O(N · points) instead of O(N²); permuted tokens give the same vectors, permuted.
    (Lee et al. 2019, the induced set attention block.) Raises FlowportError for heads that do not divide the width.
    """

    def __init__(self, width: int, attention_heads: int, points: int) -> None:
        super().__init__()
        self.induced = nn.Parameter(torch.randn(1, points, width))
        self.gather, self.spread = (CrossAttention(width, attention_heads) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        induced = self.induced.expand(len(tokens), -1, -1)
        return self.spread(tokens, induced + self.gather(induced, tokens))
