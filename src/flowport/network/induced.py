"""Attention through a fixed number of learned inducing points, at a cost linear in the number of tokens."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from flowport.errors import FlowportError


class CrossAttention(nn.Module):
    """Multi-head cross-attention, softmax(Q(x) K(y)ᵀ/√w) V(y) per head, w = width/attention_heads.

    Args:
        width: Width of a token.
        attention_heads: Number of heads; it must divide ``width``.

    Raises:
        FlowportError: When the heads do not divide the width.

    References:
        Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762.
    """

    def __init__(self, width: int, attention_heads: int) -> None:
        super().__init__()
        if width % attention_heads:
            raise FlowportError(f"{attention_heads} attention heads do not divide a width of {width}")
        self.attention_heads = attention_heads
        self.q, self.kv, self.merge = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Attention of x to y, (B, N, width).

        Args:
            x: Tokens that make the queries, (B, N, width).
            y: Tokens that make keys and values, (B, M, width).
        """
        q = self.q(x).unflatten(2, (self.attention_heads, -1)).transpose(1, 2)
        k, v = self.kv(y).unflatten(2, (2, self.attention_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.merge(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class InducedAttention(nn.Module):
    """Induced set attention: attention(tokens, H), where H = I + attention(I, tokens) and I are learned points.

    It maps (B, N, width) to (B, N, width) in O(N · points) instead of O(N²), and is equivariant under permutations of
    the tokens. The norms, residual connections and MLPs of the paper's block belong to the block that contains it.

    Args:
        width: Width of a token.
        attention_heads: Number of heads; it must divide ``width``.
        points: Number of learned inducing points.

    Raises:
        FlowportError: When the heads do not divide the width.

    References:
        Lee et al. 2019, "Set Transformer: a framework for attention-based permutation-invariant neural networks",
        arXiv:1810.00825.
    """

    def __init__(self, width: int, attention_heads: int, points: int) -> None:
        super().__init__()
        self.induced = nn.Parameter(torch.randn(1, points, width))
        self.gather, self.spread = (CrossAttention(width, attention_heads) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Attention of all tokens to the inducing points, (B, N, width).

        Args:
            tokens: Tokens, (B, N, width).
        """
        induced = self.induced.expand(len(tokens), -1, -1)
        return self.spread(tokens, induced + self.gather(induced, tokens))
