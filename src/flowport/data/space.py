"""The space in which a flow lives: the data's own, or the latent space of an autoencoder."""

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from flowport.cache import Facts, TrainingSettings, home, load_or_train, optimised
from flowport.distribution.base import Distribution, Stored
from flowport.distribution.gaussian import Gaussian
from flowport.errors import FlowportError
from flowport.modality.latent import Codec, LatentModality
from flowport.network.autoencoder import Autoencoder
from flowport.randomness import Randomness

AUTOENCODERS = home() / "autoencoders"
RECIPE = TrainingSettings(rate=2e-3, decay=0.01)
"""On |x − decode(z + noise n)|², z = encode(x), n ~ N(0, I): the noise makes near latents decode to near images, for a
flow arrives nearly."""


class Space(ABC):
    @abstractmethod
    def enter(self, source: Distribution, target: Distribution) -> tuple[Distribution, Distribution, Facts]:
        """Both distributions in this space, and what is worth knowing of the way there."""


class DataSpace(Space):
    """The data's own space."""

    def enter(self, source: Distribution, target: Distribution) -> tuple[Distribution, Distribution, Facts]:
        return source, target, {}


class LatentSpace(Space):
    """Stored images of both sides are encoded by one autoencoder, trained once on the training images of both and kept
    in data/autoencoders by a hash of them; a standard Gaussian source becomes the one of the latent's shape.

    channels: of a latent, which has a quarter of the image's height and width; width: of the autoencoder.
    Metrics and pictures see decoded images beside real ones. Raises FlowportError for anything but
    stored images of one shape.
    """

    def __init__(self, channels: int = 4, width: int = 32, steps: int = 1000) -> None:
        if steps < 1:
            raise FlowportError(f"space.steps is {steps}; an autoencoder needs at least 1")
        self.channels, self.width, self.recipe = channels, width, replace(RECIPE, steps=steps)

    def enter(self, source: Distribution, target: Distribution) -> tuple[Distribution, Distribution, Facts]:
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
    """Stored images as latents of a codec; anything else as a standard Gaussian of the latents' shape."""
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
    """The autoencoder of the training images of all sides, loaded from ``folder`` or trained and kept there, and its
    mean squared reconstruction error over their test images (squared units of the points) and over their variance.

    Trained on the CPU with a fixed seed; the caller's random state is not touched.
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
        found = model.decode(z + recipe.noise * torch.randn(z.shape, generator=generator))
        return (found - batch).square().mean()

    names = " and ".join(dict.fromkeys(side.name for side in sides))
    model = optimised(model, recipe, f"training the autoencoder of {names}", loss)
    held_out = torch.cat([_encoded(side.split("test")) for side in sides])
    with torch.no_grad():
        error = torch.cat([(model.decode(model.encode(p)) - p).square().mean((1, 2, 3)) for p in held_out.split(256)])
    return model, {"error": float(error.mean()), "unexplained": float(error.mean() / held_out.var())}


def _encoded(part: Stored) -> Tensor:
    return part.every(part.size, Randomness()).x
