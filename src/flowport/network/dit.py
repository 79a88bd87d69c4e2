"""Diffusion transformer on image patches with adaptive layer norm that is initialised to zero (adaLN-Zero)."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from flowport.errors import Count, FlowportError, Range
from flowport.network.base import Network, image_shape
from flowport.network.block import Attention, zeroed
from flowport.network.embedding import Embedding
from flowport.network.pieces import recomputed
from flowport.types import Condition, ConditionShape, EventShape


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm, norm(tokens) · (1 + scale) + shift, with a norm that has no parameters.

    Args:
        tokens: Tokens, (B, N, width).
        shift: Shift, (B, 1, width).
        scale: Relative scale, (B, 1, width).
    """
    return layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift


class DiTBlock(nn.Module):
    """Transformer block with adaLN-Zero: gated attention and a gated MLP, both residual.

    tokens ← tokens + gate · attention(modulated(tokens)), then the same with the MLP. Gates, scales and shifts are
    linear in the embedding and start at 0, so the block starts as the identity.

    Args:
        width: Width of a token.
        attention: Builds the attention layer, a module (B, N, width) -> (B, N, width).
        ratio: Width of the MLP's hidden layer in units of ``width``.

    References:
        Peebles and Xie 2022, "Scalable diffusion models with transformers", arXiv:2212.09748.
    """

    def __init__(self, width: int, attention: Callable[[], nn.Module], ratio: int = 4) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.attention = attention()
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU("tanh"), nn.Linear(ratio * width, width))

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Tokens after the block, (B, N, width).

        Args:
            tokens: Tokens, (B, N, width).
            embedding: Embedding of time and condition, (B, width).
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(embedding)[:, None].chunk(6, 2)
        tokens = tokens + gate_a * self.attention(modulated(tokens, shift_a, scale_a))
        return tokens + gate_m * self.mlp(modulated(tokens, shift_m, scale_m))


class DiT(Network):
    """Diffusion transformer: image patches as tokens, transformer blocks modulated by time, label and step.

    It maps (B, C, H, W) to (B, heads·C, H, W). Learned position embeddings fix the image size. The output starts at
    exactly 0.

    Args:
        event_shape: Shape (C, H, W) of one image.
        condition: What ``forward`` must accept beside x and t.
        heads: Number of outputs per coordinate.
        patch: Height and width of a patch in pixels; they must divide H and W.
        width: Width of a token.
        depth: Number of transformer blocks.
        attention_heads: Number of attention heads; it must divide ``width``.
        checkpointing: Whether a training step keeps the inputs of the blocks only and computes the rest a second time
            for the gradient: less memory, more time, the same gradients.

    Raises:
        FlowportError: For points that are not images, sizes that the patch does not divide, options below 1, and heads
            that do not divide the width.

    References:
        Peebles and Xie 2022, "Scalable diffusion models with transformers", arXiv:2212.09748.
    """

    def __init__(
        self,
        event_shape: EventShape,
        condition: ConditionShape,
        heads: int = 1,
        *,
        patch: Sequence[Count] = (2, 2),
        width: Annotated[int, Range(most=10**6)] = 128,
        depth: Annotated[int, Range(most=1000)] = 4,
        attention_heads: int = 4,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(event_shape, condition, heads)
        self.checkpointing = checkpointing
        if len(patch) != 2 or min(*patch, width, depth, attention_heads) < 1:
            raise FlowportError(
                "the DiT needs patch=[height, width], and patch, width, depth, attention_heads of at least 1"
            )
        self.patch = (patch[0], patch[1])
        _, high, wide = image_shape(self.event_shape, self.patch, "DiT")
        self.grid = (high // patch[0], wide // patch[1])
        self.embedding = Embedding(width, condition)
        self.patchify = nn.Conv2d(self.channels_in, width, self.patch, self.patch)
        self.position = nn.Parameter(0.1 * torch.randn(self.grid[0] * self.grid[1], width))
        self.blocks = nn.ModuleList(DiTBlock(width, lambda: Attention(width, attention_heads)) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, self.channels_out * patch[0] * patch[1]))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        embedding = self.embedding(t, condition)
        tokens = self.patchify(self.with_source(x, condition)).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            tokens = recomputed(block, self.checkpointing, tokens, embedding)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, 2)
        pixels = self.out(modulated(tokens, shift, scale)).view(-1, *self.grid, self.channels_out, *self.patch)
        return pixels.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.channels_out, *self.event_shape[1:])
