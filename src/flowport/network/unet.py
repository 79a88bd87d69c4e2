"""Adapter of torchcfm's U-Net, the network of its image examples, to the interface of the networks."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from flowport.errors import Count, FlowportError, Fraction, Positive, Range
from flowport.network.base import Network, checked_step, level_heights
from flowport.types import Condition, ConditionShape, EventShape


def _unet_model() -> type[nn.Module]:
    """The class ``UNetModel`` of torchcfm; raises FlowportError where torchcfm is not installed."""
    try:
        from torchcfm.models.unet.unet import UNetModel
    except ImportError as problem:
        raise FlowportError(
            "network=unet needs torchcfm, which is not installed: run `pip install --no-deps torchcfm`, "
            "or use network=patch_unet"
        ) from problem
    return UNetModel


class UNet(Network):
    """U-Net with residual blocks and attention: ``UNetModel`` of guided-diffusion as shipped by torchcfm.

    It maps (B, C, H, W) to (B, heads·C, H, W). Class c is the model's label c + 1; its label 0 means no label. It takes
    neither continuous labels nor step lengths. The output starts at exactly 0.

    Args:
        event_shape: Shape (C, H, W) of one image, H and W divisible by 2^(levels − 1), one level per multiplier.
        condition: What ``forward`` must accept beside x and t.
        heads: Number of outputs per coordinate.
        width: Number of channels before multiplication.
        multipliers: Channels of every level in units of ``width``; each product must be divisible by 32.
        residual_blocks: Number of residual blocks per level.
        attention: Image heights at which there is self-attention, each the height of a level.
        attention_heads: Number of attention heads.
        dropout: Dropout probability inside the residual blocks.
        time_scale: Factor on t before the sinusoidal embedding. torchcfm uses 1; guided-diffusion's embedding was made
            for times in 0 … 1000.

    Raises:
        FlowportError: For points that are not images of a permitted size, channels that 32 does not divide, continuous
            labels, steps, and where torchcfm is not installed.

    References:
        Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image segmentation", arXiv:1505.04597.
        Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233.
        Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
        arXiv:2302.00482.
    """

    def __init__(
        self,
        event_shape: EventShape,
        condition: ConditionShape,
        heads: int = 1,
        *,
        width: Annotated[int, Range(most=10**6)] = 32,
        multipliers: Sequence[Count] = (1, 2),
        residual_blocks: Count = 1,
        attention: Sequence[Count] = (8,),
        attention_heads: Count = 4,
        dropout: Fraction = 0.0,
        time_scale: Positive = 1.0,
    ) -> None:
        super().__init__(event_shape, condition, heads)
        if condition.values:
            raise FlowportError("torchcfm's UNet takes class labels only, not continuous ones: use network=patch_unet")
        if condition.step:
            raise FlowportError(
                "torchcfm's UNet does not take the length of a step: use network=patch_unet or network=dit"
            )
        if min(width, *multipliers, residual_blocks, attention_heads) < 1:
            raise FlowportError(
                "width, multipliers, residual_blocks and attention_heads of the UNet must be at least 1"
            )
        channels = [width * m for m in multipliers]
        heights = level_heights(self.event_shape, channels, attention, 32, "torchcfm's UNet")
        if wrong := [c for c in channels if attention and c % attention_heads]:
            raise FlowportError(f"network.attention_heads={attention_heads} does not divide the {wrong[0]} channels")
        self.time_scale = time_scale
        self.net = _unet_model()(
            image_size=heights[0],
            in_channels=self.channels_in,
            model_channels=width,
            out_channels=self.channels_out,
            num_res_blocks=residual_blocks,
            attention_resolutions=tuple(heights[0] // a for a in attention),
            dropout=dropout,
            channel_mult=tuple(multipliers),
            num_heads=attention_heads,
            num_classes=condition.classes + 1 if condition.classes else None,
        )

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        checked_step(self.condition, t, condition)
        return self.net(t * self.time_scale, self.with_source(x, condition), self._label(len(x), x.device, condition))

    def _label(self, n: int, device: torch.device, condition: Condition) -> Tensor | None:
        """The argument y of ``UNetModel``: (n,) with 0 for no label, or None for a model built without labels."""
        if self.condition.classes == 0:
            if condition.label is not None:
                raise FlowportError("this UNet was built without labels but is given some")
            return None
        return torch.zeros(n, dtype=torch.long, device=device) if condition.label is None else condition.label + 1
