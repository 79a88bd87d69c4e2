"""Spaces: whether the flow transports encoded data themselves or latents of an autoencoder.

References:
    Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv:2112.10752.
"""

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from flowport.cache import Facts, TrainingSettings, home, load_or_train, trained
from flowport.distribution.base import Distribution, Stored
from flowport.distribution.gaussian import Gaussian
from flowport.errors import Checked, Count, FlowportError
from flowport.modality.latent import Codec, LatentModality
from flowport.network.autoencoder import Autoencoder
from flowport.randomness import Randomness

AUTOENCODERS = home() / "autoencoders"
RECIPE = TrainingSettings(rate=2e-3, decay=0.01)
"""Training of autoencoders on |x − decode(z + σ n)|², z = encode(x), n ~ N(0, I), σ = ``noise``.

The noise makes the decoder smooth, because a sampled flow reaches latents of images only approximately.
"""


class Space(Checked, ABC):
    """The space of the points that the flow transports.

    A member provides ``enter``.

    To add a member: subclass this class in this module and add ``configs/space/<name>.yaml`` with ``_target_``. Tests
    belong to tests/data/test_space.py.
    """

    @abstractmethod
    def enter(self, source: Distribution, target: Distribution) -> tuple[Distribution, Distribution, Facts]:
        """Both distributions in this space, and facts on their encoding to log.

        Args:
            source: Source distribution of data.
            target: Target distribution of data.

        Raises:
            FlowportError: When the distributions have no representation in this space.
        """


class DataSpace(Space):
    """The space of the encoded data themselves: distributions are unchanged."""

    def enter(self, source: Distribution, target: Distribution) -> tuple[Distribution, Distribution, Facts]:
        return source, target, {}


class LatentSpace(Space):
    """The latent space of one autoencoder of the stored images of both sides.

    The autoencoder is trained on the training images of both sides and cached in data/autoencoders under a hash of
    images and settings. A standard Gaussian side becomes the standard Gaussian of the shape of a latent. Metrics and
    pictures compare decoded latents with the images of the data.

    Args:
        channels: Number of channels of a latent, whose height and width are a quarter of those of the image.
        width: Number of channels of the hidden layers of the autoencoder.
        steps: Number of training steps of the autoencoder.

    Raises:
        FlowportError: When steps is below 1.
    """

    def __init__(self, channels: Count = 4, width: Count = 32, steps: int = 1000) -> None:
        if steps < 1:
            raise FlowportError(f"space.steps is {steps}; an autoencoder needs at least 1")
        self.channels, self.width, self.recipe = channels, width, replace(RECIPE, steps=steps)

    def enter(self, source: Distribution, target: Distribution) -> tuple[Distribution, Distribution, Facts]:
        """Both distributions as latents, and the reconstruction errors of the autoencoder.

        Args:
            source: Stored images or a standard Gaussian.
            target: Stored images or a standard Gaussian.

        Raises:
            FlowportError: When no side is stored, a side is neither of the two, or the images have different shapes.
        """
        sides = [side for side in (source, target) if isinstance(side, Stored)]
        if not sides or not all(isinstance(s, Stored) or s.standard_gaussian for s in (source, target)):
            raise FlowportError(
                "space=latent encodes stored images; the other side may be stored images too, or a standard Gaussian"
            )
        if len({side.event_shape for side in sides}) > 1:
            raise FlowportError(
                f"space=latent needs images of one shape, not {' and '.join(str(s.event_shape) for s in sides)}"
            )
        codec, facts = trained_autoencoder(sides, self.channels, self.width, self.recipe, AUTOENCODERS)
        return inside(source, codec, target), inside(target, codec, source), facts


def inside(side: Distribution, codec: Codec, other: Distribution) -> Distribution:
    """Stored images as latents of a codec; any other distribution as the standard Gaussian of the shape of a latent.

    Args:
        side: The distribution.
        codec: The autoencoder.
        other: The distribution of the other side, whose modality a Gaussian takes.
    """
    if not isinstance(side, Stored):
        return Gaussian(event_shape=codec.latent_shape, modality=LatentModality(other.modality, codec))
    entered = copy(side)
    entered.modality, entered.event_shape = LatentModality(side.modality, codec), codec.latent_shape
    return entered


@torch.inference_mode(False)
@torch.enable_grad()
def trained_autoencoder(
    sides: list[Stored], channels: int, width: int, recipe: TrainingSettings, folder: Path
) -> tuple[Autoencoder, Facts]:
    """An autoencoder of the training images of several distributions, from the cache or newly trained.

    It is trained on the CPU with a fixed seed; torch's default generator is unchanged afterwards.

    Args:
        sides: Stored images of one shape.
        channels: Number of channels of a latent.
        width: Number of channels of the hidden layers.
        recipe: Settings of the training.
        folder: Folder of the cache.

    Returns:
        The autoencoder, frozen, and its facts: ``autoencoder/error``, the mean squared reconstruction error on the test
        images in squared units of the points, and ``autoencoder/unexplained``, the error over the variance.
    """
    sides = [side.to("cpu") for side in sides]
    digest = blake2b(repr((sorted(asdict(recipe).items()), channels, width)).encode(), digest_size=8)
    for side in sides:
        part = side.split("train")
        digest.update(f"{side.event_shape} {len(part.index)}".encode())
        digest.update(part.raw[part.index].contiguous().view(torch.uint8).numpy().tobytes())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        model = Autoencoder(sides[0].event_shape, channels, width)
    made, facts = load_or_train(
        model, folder / f"{digest.hexdigest()}.safetensors", lambda: _train(model, sides, recipe)
    )
    return made, {f"autoencoder/{name}": value for name, value in facts.items()}


def _train(model: Autoencoder, sides: list[Stored], recipe: TrainingSettings) -> tuple[Autoencoder, Facts]:
    x = torch.cat([_encoded(side.split("train")) for side in sides])
    generator = torch.Generator().manual_seed(recipe.seed)

    def loss() -> Tensor:
        batch = x[torch.randint(len(x), (recipe.batch,), generator=generator)]
        z = model.encode(batch)
        reconstruction = model.decode(z + recipe.noise * torch.randn(z.shape, generator=generator))
        return (reconstruction - batch).square().mean()

    names = " and ".join(dict.fromkeys(side.name for side in sides))
    model = trained(model, recipe, f"training the autoencoder of {names}", loss)
    held_out = torch.cat([_encoded(side.split("test")) for side in sides])
    with torch.no_grad():
        error = torch.cat([(model.decode(model.encode(p)) - p).square().mean((1, 2, 3)) for p in held_out.split(256)])
    return model, {"error": float(error.mean()), "unexplained": float(error.mean() / held_out.var())}


def _encoded(part: Stored) -> Tensor:
    return part.every(part.size, Randomness()).x
