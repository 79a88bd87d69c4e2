"""Layers of the U-Net of guided-diffusion: its embedding, residual block, attention, and a stage of these.

References:
    Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233.
    Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174 (checkpointing).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint

from flowport.network.base import checked_step
from flowport.network.block import zeroed
from flowport.network.embedding import TimeFeatures, label_embedding
from flowport.types import Condition, ConditionShape

GROUPS = 32
"""Groups of every group norm."""


class ADMEmbedding(nn.Module):
    """Embedding of time and condition, W₂ SiLU(W₁ s(t) + W₃ φ(d)) + label.

    s(t) = (cos ω_k τ, sin ω_k τ) with τ = time_scale · t and ω_k = 10000^(−k/K), k = 0, …, K − 1, K = width // 2; φ are
    the features of ``TimeFeatures``. The term of the step length d is present only in networks built with it.

    Args:
        width: Number of features of the time; the embedding is four times as wide.
        condition: What the network must accept beside x and t.
        time_scale: Factor on t.

    References:
        Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762 (s).
    """

    def __init__(self, width: int, condition: ConditionShape, time_scale: float) -> None:
        super().__init__()
        self.features, self.shape, self.time_scale, out = width, condition, time_scale, 4 * width
        self.first, self.second = nn.Linear(width, out), nn.Linear(out, out)
        self.label = label_embedding(condition, out)
        self.step_features = TimeFeatures() if condition.step else None
        self.step = nn.Linear(self.step_features.width, out) if self.step_features else None

    def forward(self, t: Tensor, condition: Condition) -> Tensor:
        """Embedding of times and conditions, (B, 4·width).

        Args:
            t: Times, (B,).
            condition: Labels and step lengths of the rows; the source is not read.
        """
        hidden, step = (
            self.first(self._sinusoids(t).to(self.first.weight.dtype)),
            checked_step(self.shape, t, condition),
        )
        if step is not None and self.step is not None and self.step_features is not None:
            hidden = hidden + self.step(self.step_features(step).to(self.step.weight.dtype))
        return self.label(self.second(silu(hidden)), condition.label)

    def _sinusoids(self, t: Tensor) -> Tensor:
        """s(t), (B, width), in the precision of t."""
        half = self.features // 2
        # Made in every call: a buffer would lose its precision in a network that is cast to half precision.
        powers = torch.arange(half, dtype=t.dtype, device=t.device) / max(half, 1)
        angle = (t * self.time_scale)[:, None] * torch.exp(-math.log(10000) * powers)
        parts = [angle.cos(), angle.sin()]
        return torch.cat(parts if self.features % 2 == 0 else [*parts, torch.zeros_like(t)[:, None]], 1)


class ADMResidualBlock(nn.Module):
    """Residual block with a shift, skip(x) + conv(dropout(silu(norm(conv(silu(norm(x))) + shift)))).

    The shift is affine in the embedding. The second convolution starts at zero.

    Args:
        inside: Number of input channels.
        out: Number of output channels.
        embedding: Width of the embedding.
        rate: Dropout probability.
    """

    def __init__(self, inside: int, out: int, embedding: int, rate: float) -> None:
        super().__init__()
        self.out, self.rate = out, rate
        self.before = nn.GroupNorm(GROUPS, inside)
        self.first = nn.Conv2d(inside, out, 3, padding=1)
        self.shift = nn.Linear(embedding, out)
        self.between = nn.GroupNorm(GROUPS, out)
        self.second = zeroed(nn.Conv2d(out, out, 3, padding=1))
        self.skip: nn.Module = nn.Identity() if inside == out else nn.Conv2d(inside, out, 1)

    def kept(self, x: Tensor) -> Tensor | None:
        """What dropout keeps, (B, out, H, W) of true and false; None without dropout.

        Args:
            x: Feature maps, (B, inside, H, W).
        """
        if self.rate == 0 or not self.training:
            return None
        last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        shape = (len(x), self.out, *x.shape[2:])
        return torch.empty(shape, dtype=torch.bool, device=x.device, memory_format=layout).bernoulli_(1 - self.rate)

    def forward(self, x: Tensor, embedding: Tensor, keep: Tensor | None = None) -> Tensor:
        """Feature maps after the block, (B, out, H, W).

        Args:
            x: Feature maps, (B, inside, H, W).
            embedding: SiLU of the embedding of time and condition, (B, embedding).
            keep: What dropout keeps; drawn here where it is None.
        """
        h = self.first(silu(self.before(x))) + self.shift(embedding)[:, :, None, None]
        h = silu(self.between(h))
        if keep is None:
            h = dropout(h, self.rate, self.training)
        else:
            h = h * keep * (1 / (1 - self.rate) if self.rate < 1 else 0.0)
        return self.skip(x) + self.second(h)


class ADMAttention(nn.Module):
    """Residual self-attention over the pixels of an image, x + attention(norm(x)); it starts as the identity.

    The outputs of the first layer are in the order (head, query or key or value, channel), which is torchcfm's.

    Args:
        channels: Number of channels.
        attention_heads: Number of heads; it must divide ``channels``.
    """

    def __init__(self, channels: int, attention_heads: int) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.merge = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps after attention, (B, C, H, W).

        Args:
            x: Feature maps, (B, C, H, W).
        """
        # With channels last, pixels are tokens without a copy, on the way in and on the way out.
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).unflatten(2, (self.attention_heads, 3, -1)).permute(3, 0, 2, 1, 4)
        mixed = scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)
        return x + self.merge(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class ADMStage(nn.Module):
    """A residual block, attention where there is any, and doubling of the resolution where there is any.

    Args:
        inside: Number of input channels.
        out: Number of output channels.
        embedding: Width of the embedding.
        rate: Dropout probability.
        attention_heads: Number of attention heads; 0 for no attention.
        double: Whether height and width are doubled at the end.
        checkpointing: Whether gradients are computed from a second forward pass.
    """

    def __init__(
        self,
        inside: int,
        out: int,
        embedding: int,
        rate: float,
        attention_heads: int = 0,
        double: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.residual = ADMResidualBlock(inside, out, embedding, rate)
        self.attention: nn.Module = ADMAttention(out, attention_heads) if attention_heads else nn.Identity()
        self.resize: nn.Module = nn.Identity()
        if double:
            self.resize = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(out, out, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Feature maps after the stage, (B, out, H, W) or (B, out, 2H, 2W).

        Args:
            x: Feature maps, (B, inside, H, W).
            embedding: SiLU of the embedding of time and condition, (B, embedding).
        """
        if not (self.checkpointing and self.training and torch.is_grad_enabled()):
            return self._passed(x, embedding, None)
        # To give the second pass the numbers of the first, torch would read the state of the device's generator, which
        # waits for the device and is forbidden while a CUDA graph is captured. Nothing random is left inside instead:
        # what dropout keeps is drawn here.
        inputs = (x, embedding, self.residual.kept(x))
        return checkpoint(self._passed, *inputs, use_reentrant=False, preserve_rng_state=False)

    def _passed(self, x: Tensor, embedding: Tensor, keep: Tensor | None) -> Tensor:
        return self.resize(self.attention(self.residual(x, embedding, keep)))
