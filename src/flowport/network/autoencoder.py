"""A convolutional autoencoder of images, whose latents are the points of latent flows."""

from torch import Tensor, nn
from torch.nn.functional import silu

from flowport.errors import FlowportError
from flowport.modality.latent import Codec
from flowport.network.block import groups
from flowport.types import EventShape

SHRINK = 4
"""Factor by which the encoder reduces height and width."""


class PlainBlock(nn.Module):
    """Unconditioned pre-activation residual block, x + h₂(h₁(x)) with h(x) = conv(silu(norm(x))).

    Args:
        width: Number of channels.

    References:
        He et al. 2016, "Identity mappings in deep residual networks", arXiv:1603.05027.
        Wu and He 2018, "Group normalization", arXiv:1803.08494.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(groups(width), width) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block, of the shape of its input.

        Args:
            x: Feature maps, (B, width, H, W).
        """
        h = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            h = convolution(silu(norm(h)))
        return x + h


class Autoencoder(Codec):
    """Convolutional autoencoder that maps images (B, C, H, W) to latents (B, channels, H/4, W/4) and back.

    The encoder ends in a batch norm without scale and shift, whose running moments are used in evaluation, so every
    latent channel has mean 0 and variance 1 over the training data. A standard Gaussian is then a source of the same
    scale. The decoder upsamples by sub-pixel convolution.

    Args:
        event_shape: Shape (C, H, W) of one image, H and W divisible by 4.
        channels: Number of latent channels.
        width: Number of channels at half resolution; at a quarter of the resolution there are twice as many.

    Attributes:
        settings: The arguments.

    Raises:
        FlowportError: For points that are not images with sides divisible by 4, and for channels or width below 1.

    References:
        Rombach et al. 2021, "High-resolution image synthesis with latent diffusion models", arXiv:2112.10752.
        Shi et al. 2016, "Real-time single image and video super-resolution using an efficient sub-pixel convolutional
        neural network", arXiv:1609.05158.
    """

    def __init__(self, event_shape: EventShape, channels: int = 4, width: int = 32) -> None:
        super().__init__()
        if len(event_shape) != 3 or event_shape[1] % SHRINK or event_shape[2] % SHRINK:
            raise FlowportError(
                f"an autoencoder needs images (C, H, W), H and W divisible by {SHRINK}, not {event_shape}"
            )
        if min(channels, width) < 1:
            raise FlowportError(f"an autoencoder needs channels and width of at least 1, not {channels} and {width}")
        self.settings = (list(event_shape), channels, width)
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
