"""A small diffusion transformer with adaLN-zero."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from flowport.errors import FlowportError
from flowport.network.base import Network, image_shape
from flowport.network.block import Attention, zeroed
from flowport.network.embedding import Embedding
from flowport.types import Condition, ConditionShape, EventShape


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(tokens) · (1 + scale) + shift, a parameter-free layer norm."""
    return layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift


class DiTBlock(nn.Module):
    """tokens + gate · attention(modulated tokens), then the same with an MLP ``ratio`` times as wide; all
    gates, scales and shifts start at 0. attention: makes (B, N, width) -> (B, N, width)."""

    def __init__(self, width: int, attention: Callable[[], nn.Module], ratio: int = 4) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.attention = attention()
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU("tanh"), nn.Linear(ratio * width, width))

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(embedding)[:, None].chunk(6, 2)
        tokens = tokens + gate_a * self.attention(modulated(tokens, shift_a, scale_a))
        return tokens + gate_m * self.mlp(modulated(tokens, shift_m, scale_m))


class DiT(Network):
    """Patches as tokens, ``depth`` transformer blocks modulated by time and label (Peebles and Xie, 2023).

    (B, C, H, W) -> (B, heads·C, H, W), H and W divisible by patch = (patch height, patch width). Learned positions tie
    it to one image size. The output starts at exactly 0.
    Raises FlowportError for points that are not images and for sizes that the patch does not divide.
    """

    def __init__(
        self,
        event_shape: EventShape,
        condition: ConditionShape,
        heads: int = 1,
        *,
        patch: Sequence[int] = (2, 2),
        width: int = 128,
        depth: int = 4,
        attention_heads: int = 4,
    ) -> None:
        super().__init__(event_shape, condition, heads)
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
            tokens = block(tokens, embedding)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, 2)
        pixels = self.out(modulated(tokens, shift, scale)).view(-1, *self.grid, self.channels_out, *self.patch)
        return pixels.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.channels_out, *self.event_shape[1:])
