"""Layers shared by the networks: residual blocks, self-attention and zero initialisation."""

from typing import TypeVar

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from flowport.errors import FlowportError

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def groups(channels: int) -> int:
    """The number of groups of a group norm: the largest number up to 8 that divides the channels.

    Args:
        channels: Number of channels.
    """
    return next(n for n in range(8, 0, -1) if channels % n == 0)


def zeroed(layer: Layer) -> Layer:
    """The same layer with weight and bias set to zero, so that a residual branch it ends starts at 0.

    Args:
        layer: The layer, changed in place.
    """
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """Residual block with modulation, skip(x) + conv(silu(norm(conv(silu(norm(x)))) · (1 + scale) + shift)).

    The second convolution starts at zero, so the block starts as its skip connection.

    Args:
        inside: Number of input channels.
        out: Number of output channels.

    References:
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233 (adaptive group
        norm).
        He et al. 2016, "Identity mappings in deep residual networks", arXiv:1603.05027.
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
        """Feature maps after the block, (B, out, H, W).

        Args:
            x: Feature maps, (B, inside, H, W).
            scale: Relative scale, (B, out, 1, 1).
            shift: Shift, (B, out, 1, 1).
        """
        h = self.between(self.first(silu(self.before(x))))
        return self.skip(x) + self.second(silu(h * (1 + scale) + shift))


class Attention(nn.Module):
    """Multi-head self-attention over tokens, without norm or residual connection.

    Args:
        width: Width of a token.
        attention_heads: Number of heads; it must divide ``width``.
        zero: Whether the last layer, and with it the output, starts at zero.

    Raises:
        FlowportError: When the heads do not divide the width.

    References:
        Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762.
    """

    def __init__(self, width: int, attention_heads: int, *, zero: bool = False) -> None:
        super().__init__()
        if width % attention_heads:
            raise FlowportError(f"{attention_heads} attention heads do not divide a width of {width}")
        self.attention_heads = attention_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = zeroed(nn.Linear(width, width)) if zero else nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens after attention, (B, N, width).

        Args:
            tokens: Tokens, (B, N, width).
        """
        batch, n, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, n, 3, self.attention_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return self.merge(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, n, width))


class ImageAttention(nn.Module):
    """Residual self-attention over the pixels of an image, x + attention(norm(x)); it starts as the identity.

    Args:
        channels: Number of channels.
        attention_heads: Number of heads; it must divide ``channels``.

    Raises:
        FlowportError: When the heads do not divide the channels.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239.
    """

    def __init__(self, channels: int, attention_heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups(channels), channels)
        self.attention = Attention(channels, attention_heads, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps after attention, (B, C, H, W).

        Args:
            x: Feature maps, (B, C, H, W).
        """
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(tokens).transpose(1, 2).view_as(x)
