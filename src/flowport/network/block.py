"""Parts of the image networks."""

from typing import TypeVar

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from flowport.errors import FlowportError

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def groups(channels: int) -> int:
    """The largest number of groups up to 8 that divides the channels."""
    return next(n for n in range(8, 0, -1) if channels % n == 0)


def zeroed(layer: Layer) -> Layer:
    """The layer with zero weight and bias: what it feeds starts as if it were absent."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """skip(x) + conv(silu(norm(conv(silu(norm x))) · (1 + scale) + shift)), with scale, shift (B, out, 1, 1) given.

    The second convolution starts at zero, so the block starts as its skip connection.
    """

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.before = nn.GroupNorm(groups(inside), inside)
        self.first = nn.Conv2d(inside, out, 3, padding=1)
        self.between = nn.GroupNorm(groups(out), out)
        self.second = zeroed(nn.Conv2d(out, out, 3, padding=1))
        self.skip: nn.Module = nn.Identity() if inside == out else nn.Conv2d(inside, out, 1)
        self.out = out

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        h = self.between(self.first(silu(self.before(x))))
        return self.skip(x) + self.second(silu(h * (1 + scale) + shift))


class Attention(nn.Module):
    """Multi-head self-attention over tokens, (B, N, width) -> (B, N, width), without norm or residual."""

    def __init__(self, width: int, attention_heads: int, *, zero: bool = False) -> None:
        super().__init__()
        if width % attention_heads:
            raise FlowportError(f"{attention_heads} attention heads do not divide a width of {width}")
        self.attention_heads = attention_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = zeroed(nn.Linear(width, width)) if zero else nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, n, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, n, 3, self.attention_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return self.merge(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, n, width))


class ImageAttention(nn.Module):
    """x + attention(norm x) over the pixels of (B, C, H, W); starts as the identity."""

    def __init__(self, channels: int, attention_heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups(channels), channels)
        self.attention = Attention(channels, attention_heads, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(tokens).transpose(1, 2).view_as(x)
