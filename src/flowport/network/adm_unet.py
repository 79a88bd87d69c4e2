"""The U-Net of guided-diffusion on layers that a GPU runs fast, and the weights of torchcfm's in its names."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from flowport.errors import Count, FlowportError, Fraction, Positive, Range
from flowport.network.adm_block import GROUPS, ADMEmbedding, ADMStage
from flowport.network.base import Network, level_heights
from flowport.network.block import zeroed
from flowport.types import Condition, ConditionShape, EventShape


class ADMUNet(Network):
    """U-Net with residual blocks and attention: the architecture of ``network=unet``, made for the GPU.

    It maps (B, C, H, W) to (B, heads·C, H, W). It has the parameters of torchcfm's ``UNetModel``, which
    ``from_torchcfm`` translates, and from the same seed it starts with the same weights. Group norms are torch's own,
    attention is ``scaled_dot_product_attention``, and feature maps that are channels last stay so. Unlike
    ``network=unet`` it also takes continuous labels and step lengths. The output starts at exactly 0.

    Args:
        event_shape: Shape (C, H, W) of one image, H and W divisible by 2^(levels − 1), one level per multiplier.
        condition: What ``forward`` must accept beside x and t.
        heads: Number of outputs per coordinate.
        width: Number of channels before multiplication.
        multipliers: Channels of every level in units of ``width``; each product must be divisible by 32.
        residual_blocks: Number of residual blocks per level.
        attention: Image heights at which there is self-attention, each the height of a level; the lowest level has one
            attention in any case.
        attention_heads: Number of attention heads.
        dropout: Dropout probability inside the residual blocks.
        time_scale: Factor on t before the sinusoidal embedding. torchcfm uses 1; guided-diffusion's embedding was made
            for times in 0 … 1000.
        checkpointing: Whether a training step keeps the inputs of the stages only and computes the rest a second time
            for the gradient: less memory, more time. Gradients are the same. With dropout, what is kept
            is drawn once per step, by other random numbers than without checkpointing, and stays in memory.

    Raises:
        FlowportError: For points that are not images of a permitted size, channels that 32 does not divide, attention
            at a height that no level has, and heads that do not divide its channels.

    References:
        Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image segmentation", arXiv:1505.04597.
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233.
        Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174 (checkpointing).
    """

    def __init__(
        self,
        event_shape: EventShape,
        condition: ConditionShape,
        heads: int = 1,
        *,
        width: Annotated[int, Range(least=1, most=10**6)] = 32,
        multipliers: Sequence[Count] = (1, 2),
        residual_blocks: Count = 1,
        attention: Sequence[Count] = (8,),
        attention_heads: Count = 4,
        dropout: Fraction = 0.0,
        time_scale: Positive = 1.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(event_shape, condition, heads)
        channels = [width * m for m in multipliers]
        heights = level_heights(self.event_shape, channels, attention, GROUPS, "the ADMUNet")
        attended = [c for c, height in zip(channels, heights, strict=True) if height in attention]
        if wrong := [c for c in (*attended, channels[-1]) if c % attention_heads]:
            raise FlowportError(f"network.attention_heads={attention_heads} does not divide the {wrong[0]} channels")

        def stage(inside: int, out: int, attends: bool, double: bool = False) -> ADMStage:
            return ADMStage(inside, out, 4 * width, dropout, attention_heads * attends, double, checkpointing)

        self.embedding = ADMEmbedding(width, condition, time_scale)
        self.down = nn.ModuleList([nn.Conv2d(self.channels_in, channels[0], 3, padding=1)])
        held, now = [channels[0]], channels[0]
        for out, height in zip(channels, heights, strict=True):
            for _ in range(residual_blocks):
                self.down.append(stage(now, out, height in attention))
                held.append(now := out)
            if height != heights[-1]:
                self.down.append(nn.Conv2d(now, now, 3, 2, 1))
                held.append(now)
        self.middle = nn.ModuleList([stage(now, now, True), stage(now, now, False)])
        self.up = nn.ModuleList()
        for out, height in zip(reversed(channels), reversed(heights), strict=True):
            for left in range(residual_blocks, -1, -1):
                double = left == 0 and height != heights[0]
                self.up.append(stage(now + held.pop(), out, height in attention, double))
                now = out
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, now), nn.SiLU(), zeroed(nn.Conv2d(now, self.channels_out, 3, padding=1))
        )

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        embedding = silu(self.embedding(t, condition))
        h, held = self.with_source(x, condition), []
        for part in self.down:
            h = part(h, embedding) if isinstance(part, ADMStage) else part(h)  # a convolution, or its low-rank form
            held.append(h)
        for part in self.middle:
            h = part(h, embedding)
        for part in self.up:
            h = part(torch.cat([h, held.pop()], 1), embedding)
        return self.out(h)


NAMES: tuple[tuple[str, str], ...] = (
    (r"^(net\.|module\.)*", ""),
    (r"^time_embed\.0\.", "embedding.first."),
    (r"^time_embed\.2\.", "embedding.second."),
    (r"^label_emb\.", "embedding.label.table."),
    (r"^input_blocks\.0\.0\.", "down.0."),
    (r"^input_blocks\.(\d+)\.0\.op\.", r"down.\1."),
    (r"^input_blocks\.(\d+)\.0\.", r"down.\1.residual."),
    (r"^input_blocks\.(\d+)\.1\.", r"down.\1.attention."),
    (r"^middle_block\.0\.", "middle.0.residual."),
    (r"^middle_block\.1\.", "middle.0.attention."),
    (r"^middle_block\.2\.", "middle.1.residual."),
    (r"^output_blocks\.(\d+)\.[12]\.conv\.", r"up.\1.resize.1."),
    (r"^output_blocks\.(\d+)\.0\.", r"up.\1.residual."),
    (r"^output_blocks\.(\d+)\.1\.", r"up.\1.attention."),
    (r"\.in_layers\.0\.", ".before."),
    (r"\.in_layers\.2\.", ".first."),
    (r"\.emb_layers\.1\.", ".shift."),
    (r"\.out_layers\.0\.", ".between."),
    (r"\.out_layers\.3\.", ".second."),
    (r"\.skip_connection\.", ".skip."),
    (r"\.proj_out\.", ".merge."),
)
"""Names in torchcfm's U-Net, as regular expressions, and those in ``ADMUNet``, replaced in this order."""


def from_torchcfm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of torchcfm's ``UNetModel`` under the names and in the shapes of ``ADMUNet``.

    ``ADMUNet(…).load_state_dict(from_torchcfm(state))`` gives the network of the same function, for equal options. Row
    c + 1 of the labels is class c and row 0 stands for no label, as in ``network=unet``.

    Args:
        state: State dict of ``UNetModel``, of the network ``UNet`` that wraps it, or of either in torch's
            ``DataParallel``.

    Returns:
        The state dict; its tensors share memory with those of ``state``.

    Raises:
        FlowportError: For a weight that is not of this architecture.
    """
    translated = {}
    for name, value in state.items():
        new = name
        for old, ours in NAMES:
            new = re.sub(old, ours, new)
        if re.search(r"(^|\.)(input_blocks|middle_block|output_blocks|in_layers|out_layers)\.", new):
            raise FlowportError(f"{name} is no weight of the U-Net that network=adm_unet builds")
        # Attention is a convolution over a sequence there, and a linear layer over tokens here.
        translated[new] = value[..., 0] if value.ndim == 3 else value
    return translated
