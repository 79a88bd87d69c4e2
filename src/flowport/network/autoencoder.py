"""An autoencoder of images: the space in which latent flows live."""

from torch import Tensor, nn
from torch.nn.functional import silu

from flowport.errors import FlowportError
from flowport.modality.latent import Codec
from flowport.network.block import groups
from flowport.types import EventShape

SHRINK = 4
"""How many pixels of height and of width become one latent place."""


class PlainBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(groups(width), width) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            h = convolution(silu(norm(h)))
        return x + h


class Autoencoder(Codec):
    """Images (B, C, H, W) to latents (B, channels, H/4, W/4) and back.

    Every latent channel has mean 0 and variance 1 over the training data (a batch norm without scale, whose running
    moments hold in evaluation), so that a standard Gaussian is a fitting source and unit noise a fitting measure.
    Raises FlowportError for points that are not images with sides divisible by 4.
    """

    def __init__(self, event_shape: EventShape, channels: int = 4, width: int = 32) -> None:
        super().__init__()
        if len(event_shape) != 3 or event_shape[1] % SHRINK or event_shape[2] % SHRINK:
            raise FlowportError(
                f"an autoencoder needs images (C, H, W), H and W divisible by {SHRINK}, not {event_shape}"
            )
        if min(channels, width) < 1:
            raise FlowportError(f"an autoencoder needs channels and width of at least 1, not {channels} and {width}")
        self.latent_shape: EventShape = (channels, event_shape[1] // SHRINK, event_shape[2] // SHRINK)
        wide = 2 * width
        self.down = nn.Sequential(
            nn.Conv2d(event_shape[0], width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, wide, 4, 2, 1),
            PlainBlock(wide),
            nn.Conv2d(wide, channels, 3, padding=1),
            nn.BatchNorm2d(channels, affine=False),
        )
        self.up = nn.Sequential(
            nn.Conv2d(channels, wide, 3, padding=1),
            PlainBlock(wide),
            nn.Conv2d(wide, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width, event_shape[0], 3, padding=1),
        )

    def encode(self, x: Tensor) -> Tensor:
        return self.down(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.up(z)
