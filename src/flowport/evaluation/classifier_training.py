"""The classifier of a labelled dataset, trained once per dataset and point size and cached on disk.

Metrics, feature costs and rewards use its 64 features or its logits, so it must be the same in every run: it has a
fixed seed, is trained on the CPU, leaves the caller's random state unchanged, and is stored under a hash of everything
that determines it.
"""

from dataclasses import asdict, dataclass
from hashlib import blake2b
from math import pi
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from flowport.cache import Facts, TrainingSettings, load_or_train, trained
from flowport.distribution.base import Distribution, Stored
from flowport.errors import FlowportError
from flowport.network.classifier import Classifier, ImageClassifier, PointClassifier
from flowport.types import EventShape

CLASSIFIERS: dict[int, type[ImageClassifier] | type[PointClassifier]] = {1: PointClassifier, 3: ImageClassifier}
RECIPE = TrainingSettings(rate=4e-3, decay=0.02)
"""Settings of the training on cross-entropy; the noise is for images in [−1, 1] or of unit scale."""


@dataclass(frozen=True)
class Augmentation:
    """Standard deviations of a random affine map of images; part of the hash.

    Args:
        shift: Translation, as a share of half the width.
        turn: Rotation, in half turns (π).
        stretch: Changes of scale and shear, as shares.
    """

    shift: float = 0.04
    turn: float = 0.035
    stretch: float = 0.06


AUGMENTATION = Augmentation()


def classifier_of(target: Distribution, folder: Path) -> tuple[Classifier, dict[str, float | str], str]:
    """The classifier of a target's labelled dataset, see ``trained_classifier``.

    Args:
        target: The target.
        folder: Folder of the cached classifiers.

    Returns:
        The classifier, its facts and the dataset's name.

    Raises:
        FlowportError: For a target without class labels.
    """
    labelled = target.classifier_dataset() if isinstance(target, Stored) else target
    if not isinstance(labelled, Stored) or labelled.classes == 0:
        raise FlowportError(
            f"this needs a classifier of the target's classes, but {type(target).__name__} is not a "
            "labelled dataset: choose another target, or metrics and rewards without one, as metric=[wasserstein]"
        )
    return *trained_classifier(labelled.split("train"), labelled.split("test"), folder), labelled.name


# A caller may be inside validation: inference tensors cannot be trained or give gradients, and autocast would round.
@torch.inference_mode(False)
@torch.enable_grad()
@torch.autocast("cpu", enabled=False)
def trained_classifier(
    train: Stored, test: Stored, folder: Path, recipe: TrainingSettings = RECIPE
) -> tuple[Classifier, dict[str, float | str]]:
    """The classifier of a dataset, loaded from ``folder/<hash>.safetensors`` or trained and stored there.

    Concurrent calls are safe: one process trains and the others load its result. A damaged file is trained anew.

    Args:
        train: Training split.
        test: Test split, for the accuracy.
        folder: Folder of the cached classifiers.
        recipe: Settings of the training.

    Returns:
        The frozen classifier in evaluation mode on the CPU, and {"accuracy": accuracy on the test split, "hash": its
        name}.

    Raises:
        FlowportError: For data without class labels, or whose points are neither vectors nor images.
    """
    train, test = train.to("cpu"), test.to("cpu")
    model = _untrained(train, test, recipe)
    name = content_hash(train, test, recipe)
    model, facts = load_or_train(model, Path(folder) / f"{name}.safetensors", lambda: _train(train, test, recipe))
    return model, {**facts, "hash": name}


def content_hash(train: Stored, test: Stored, recipe: TrainingSettings) -> str:
    """A hash of raw items, labels, recipe and encoding, 16 hexadecimal digits.

    The encoding enters by the shape of the points and by mean and standard deviation of the first 256, rounded: the
    last bits of encoded points differ between CPUs.

    Args:
        train: Training split.
        test: Test split.
        recipe: Settings of the training.
    """
    made = sorted((asdict(recipe) | asdict(AUGMENTATION)).items())
    digest = blake2b(repr((made, train.event_shape, train.classes)).encode(), digest_size=8)
    for part in (train, test):
        for tensor in (part.raw[part.index], _labels(part)):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    first = train.draw(torch.arange(min(256, len(train.index))), None).x.double()
    digest.update(f"{first.mean():.3f} {first.std():.3f}".encode())
    return digest.hexdigest()


def _labels(part: Stored) -> Tensor:
    if part.labels is None or part.labels.ndim != 1 or part.classes < 2:
        raise FlowportError(
            f"a classifier needs class labels, but {part.name} has none: choose a labelled dataset or other metrics"
        )
    return part.labels[part.index]


def _untrained(train: Stored, test: Stored, recipe: TrainingSettings) -> Classifier:
    """The classifier at its fixed initial weights."""
    shape: EventShape = train.event_shape
    _labels(train), _labels(test)
    if len(shape) not in CLASSIFIERS or test.event_shape != shape:
        raise FlowportError(
            f"a classifier needs vectors (d,) or images (C, H, W), equal in training and test, but {train.name} has "
            f"points of shape {shape} and {test.event_shape}"
        )
    # fork_rng restores the caller's state; torch.manual_seed would also seed every GPU, which it would not restore.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        return CLASSIFIERS[len(shape)](shape, train.classes)


def _augmented(x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Images under a small random affine map (border repeated) with noise added; vectors with noise alone."""
    a = AUGMENTATION
    if x.ndim == 4:
        n = len(x)
        angle, shear = a.turn * pi * torch.randn(n, generator=generator), torch.randn(n, generator=generator)
        scale = 1 + a.stretch * torch.randn(n, 2, generator=generator)
        cos, sin, lean = angle.cos(), angle.sin(), a.stretch * shear
        linear = torch.stack([scale[:, 0] * cos, lean - sin, lean + sin, scale[:, 1] * cos], 1).view(n, 2, 2)
        move = a.shift * torch.randn(n, 2, 1, generator=generator)
        grid = affine_grid(torch.cat([linear, move], 2), list(x.shape), align_corners=False)
        x = grid_sample(x, grid, padding_mode="border", align_corners=False)
    return x + noise * torch.randn(x.shape, generator=generator)


def _train(train: Stored, test: Stored, recipe: TrainingSettings) -> tuple[Classifier, Facts]:
    """A trained classifier and its accuracy on the test split."""
    model, generator = _untrained(train, test, recipe), torch.Generator().manual_seed(recipe.seed)
    points, labels = _encoded(train), _labels(train).clone()
    order = torch.empty(0, dtype=torch.long)

    def loss() -> Tensor:
        nonlocal order
        while len(order) < recipe.batch:
            order = torch.cat([order, torch.randperm(len(points), generator=generator)])
        rows, order = order[: recipe.batch], order[recipe.batch :]
        return cross_entropy(model(_augmented(points[rows], recipe.noise, generator)), labels[rows])

    model = trained(model, recipe, f"training the classifier of {train.name}", loss)
    return model, {"accuracy": _accuracy(model, _encoded(test), _labels(test))}


def _encoded(part: Stored) -> Tensor:
    """All items of a split as float32 points, encoded in chunks."""
    pieces = torch.arange(len(part.index)).split(512)
    return torch.cat([part.draw(piece, None).x for piece in pieces]).float()


@torch.no_grad()
def _accuracy(model: Classifier, points: Tensor, labels: Tensor) -> float:
    guesses = torch.cat([model(piece).argmax(1) for piece in points.split(512)])
    return (guesses == labels).double().mean().item()
