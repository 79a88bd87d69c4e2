"""Small convolutional U-Net on patches, the cheapest image network on a CPU."""

from typing import Annotated

import torch
from torch import Tensor, nn

from flowport.errors import FlowportError, Range
from flowport.network.base import Network, image_shape
from flowport.network.block import ImageAttention, ResidualBlock, groups, zeroed
from flowport.network.embedding import Embedding
from flowport.network.pieces import recomputed
from flowport.types import Condition, ConditionShape, EventShape


class PatchUNet(Network):
    """U-Net on image patches with two resolutions, self-attention at the lower one and FiLM modulation.

    It maps (B, C, H, W) to (B, heads·C, H, W). Patches become ``width`` channels; half that resolution has 2·width
    channels and two self-attentions. The embedding of time, label and step scales and shifts every residual block.
    Learned position maps at both resolutions fix the image size. The output starts at exactly 0. With the defaults and
    images (1, 16, 16) it has 0.9 million parameters.

    Args:
        event_shape: Shape (C, H, W) of one image, H and W divisible by 2·patch.
        condition: What ``forward`` must accept beside x and t.
        heads: Number of outputs per coordinate.
        width: Number of channels at the resolution of the patches; ``attention_heads`` must divide 2·width.
        patch: Side of a square patch in pixels.
        attention_heads: Number of attention heads.
        embedding: Width of the embedding of time and condition.
        checkpointing: Whether a training step keeps the inputs of the blocks only and computes the rest a second time
            for the gradient: less memory, more time, the same gradients.

    Raises:
        FlowportError: For points that are not images, sizes that 2·patch does not divide, options below 1, and heads
            that do not divide the channels.

    References:
        Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image segmentation", arXiv:1505.04597.
        Perez et al. 2017, "FiLM: visual reasoning with a general conditioning layer", arXiv:1709.07871.
    """

    def __init__(
        self,
        event_shape: EventShape,
        condition: ConditionShape,
        heads: int = 1,
        *,
        width: Annotated[int, Range(most=10**6)] = 48,
        patch: int = 2,
        attention_heads: int = 4,
        embedding: int = 128,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(event_shape, condition, heads)
        self.checkpointing = checkpointing
        if min(width, patch, attention_heads, embedding) < 1:
            raise FlowportError("width, patch, attention_heads and embedding of the PatchUNet must be at least 1")
        _, high, wide = image_shape(self.event_shape, (2 * patch, 2 * patch), "PatchUNet")
        high, wide, deep = high // patch, wide // patch, 2 * width
        self.embedding = Embedding(embedding, condition)
        self.patchify = nn.Conv2d(self.channels_in, width, patch, patch)
        self.position = nn.Parameter(0.1 * torch.randn(width, high, wide))
        self.enter = ResidualBlock(width, width)
        self.down = nn.Conv2d(width, deep, 3, 2, 1)
        self.deep_position = nn.Parameter(0.1 * torch.randn(deep, high // 2, wide // 2))
        self.deep = nn.ModuleList(ResidualBlock(deep, deep) for _ in range(3))
        self.attentions = nn.ModuleList(ImageAttention(deep, attention_heads) for _ in range(2))
        self.up = nn.Sequential(nn.Conv2d(deep, 4 * width, 1), nn.PixelShuffle(2))
        self.join = ResidualBlock(2 * width, width)
        self.leave = ResidualBlock(width, width)
        self.out = nn.Sequential(
            nn.GroupNorm(groups(width), width),
            nn.SiLU(),
            zeroed(nn.Conv2d(width, self.channels_out * patch**2, 3, padding=1)),
            nn.PixelShuffle(patch),
        )
        # One linear layer makes the scales and shifts of all blocks: fewer, larger operations.
        self.blocks = [width, deep, deep, deep, width, width]
        self.film = zeroed(nn.Linear(embedding, 2 * sum(self.blocks)))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        film = self.film(self.embedding(t, condition))[:, :, None, None]
        scales, shifts = (half.split(self.blocks, 1) for half in film.chunk(2, 1))
        patches = self.patchify(self.with_source(x, condition)) + self.position
        fine = self._block(self.enter, patches, scales[0], shifts[0])
        h = self._block(self.deep[0], self.down(fine) + self.deep_position, scales[1], shifts[1])
        h = self._block(self.deep[1], self._block(self.attentions[0], h), scales[2], shifts[2])
        h = self._block(self.deep[2], self._block(self.attentions[1], h), scales[3], shifts[3])
        h = self._block(self.join, torch.cat([self.up(h), fine], 1), scales[4], shifts[4])
        return self.out(self._block(self.leave, h, scales[5], shifts[5]))

    def _block(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        return recomputed(block, self.checkpointing, *inputs)
