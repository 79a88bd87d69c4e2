"""What users may write for a part: a config name, a class, an object, a plain function or module, or data."""

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from flowport.conditioning import Conditioning
from flowport.coupling import Coupling
from flowport.distribution.base import Distribution, Stored
from flowport.distribution.parts import stratified_split
from flowport.errors import FlowportError, member_name
from flowport.finetuning.adapter import Adapter
from flowport.finetuning.method import FineTuningMethod
from flowport.modality import FloatImage, Image, Modality, Plane
from flowport.network import Network
from flowport.path import Path
from flowport.prediction import Prediction
from flowport.reward import Reward
from flowport.sampling.grid import Grid
from flowport.sampling.solver import Solver
from flowport.sampling.volatility import Volatility
from flowport.types import Condition, ConditionShape, EventShape

Points = Any
"""A tensor or array (N, *D), a file or folder, a torch dataset, or a flowport distribution."""

FAMILIES: dict[str, tuple[str, type]] = {
    "coupling": ("flowport.coupling", Coupling),
    "path": ("flowport.path", Path),
    "prediction": ("flowport.prediction", Prediction),
    "conditioning": ("flowport.conditioning", Conditioning),
    "network": ("flowport.network", Network),
    "solver": ("flowport.sampling.solver", Solver),
    "grid": ("flowport.sampling.grid", Grid),
    "volatility": ("flowport.sampling.volatility", Volatility),
    "method": ("flowport.finetuning.method", FineTuningMethod),
    "reward": ("flowport.reward", Reward),
    "modality": ("flowport.modality", Modality),
    "adapter": ("flowport.finetuning.adapter", Adapter),
}
"""Family -> its module and base class."""


def member(family: str, word: Any) -> Any:
    """The part that a word names.

    Args:
        family: A key of ``FAMILIES``.
        word: A config name, a class of the family, or an instance, which is returned as it is.

    Returns:
        An instance; for ``network`` and ``adapter`` a class or partial, which is finished with the shapes of the flow.

    Raises:
        FlowportError: For a name that the family does not have.
    """
    module, base = FAMILIES[family]
    if isinstance(word, str):
        classes = [c for c in vars(import_module(module)).values() if inspect.isclass(c) and issubclass(c, base)]
        known = {member_name(c, family): c for c in classes if not inspect.isabstract(c)}
        if word not in known:
            raise FlowportError(f"{family}={word} does not exist: choose {', '.join(sorted(known))}")
        word = known[word]
    if family in ("network", "adapter"):
        return word
    return word() if inspect.isclass(word) else word


class PlainNetwork(Network):
    """A user's own module f(x, t) as a network.

    Args:
        event_shape: D, the shape of one point.
        condition: What the network must accept beside x and t: nothing.
        heads: Outputs per coordinate.
        module: f(x, t) of x (B, *D) and t (B,). One that declares ``capturable = True``, since it reads nothing from
            the device and its operations depend on shapes only, is trained in a CUDA graph.

    Raises:
        FlowportError: For a flow that is conditioned on something.
    """

    def __init__(self, event_shape: EventShape, condition: ConditionShape, heads: int, module: nn.Module) -> None:
        super().__init__(event_shape, condition, heads)
        if condition != ConditionShape():
            raise FlowportError("a plain network f(x, t) sees no condition: write a flowport.network.Network instead")
        self.module = module
        self.capturable = bool(getattr(module, "capturable", False))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.module(x, t)


def distribution(points: Points, name: str) -> Distribution:
    """The distribution of a user's points.

    Args:
        points: See ``Points``. Tensors are split 80/10/10 into training, validation and test by a fixed seed.
        name: What messages call it: ``"source"`` or ``"target"``.

    Raises:
        FlowportError: For anything else, too few items, NaN and infinity.
    """
    if isinstance(points, Distribution):
        return points
    if isinstance(points, str | FilePath):
        return _from_disk(FilePath(points), name)
    labels: Tensor | None = None
    if isinstance(points, torch.utils.data.Dataset):
        items = [points[k] for k in range(len(points))]  # type: ignore[arg-type]
        if isinstance(items[0], tuple | list):
            labels = torch.as_tensor([item[1] for item in items])
            items = [item[0] for item in items]
        points = torch.stack([torch.as_tensor(item) for item in items])
    raw = torch.as_tensor(points)
    if raw.ndim < 2 or len(raw) < 10:
        raise FlowportError(f"the {name} has shape {tuple(raw.shape)}: give at least 10 points, (N, *D)")
    modality: Modality = Image() if raw.dtype == torch.uint8 else FloatImage() if raw.ndim == 4 else Plane()
    tenth = max(1, len(raw) // 10)
    classes = 0 if labels is None else int(labels.max()) + 1
    splits = stratified_split(len(raw), tenth, tenth, labels)
    return Stored(name, raw if raw.dtype == torch.uint8 else raw.float(), labels, modality, splits, classes=classes)


def _from_disk(path: FilePath, name: str) -> Distribution:
    """A file of one array, or a folder of pictures, recordings or shapes."""
    from flowport.distribution import (
        AudioFolder,
        CloudFiles,
        CloudFolder,
        ImageFolder,
        PictureFiles,
        SoundFiles,
        TensorFile,
    )
    from flowport.distribution.folder import listed

    if path.is_file():
        return TensorFile(str(path))
    suffixes = {suffix for suffix, n in listed(path, ()).others.items() if n}
    kinds: dict[str, tuple[set[str], Callable[[str], Distribution]]] = {
        "recordings": (set(SoundFiles.suffixes), AudioFolder),
        "shapes": (set(CloudFiles.suffixes), CloudFolder),
        "pictures": (set(PictureFiles.suffixes), ImageFolder),
    }
    found = [kind for kind, (endings, _) in kinds.items() if suffixes & endings]
    if len(found) != 1:
        held = " and ".join(found) or "no pictures, recordings or shapes"
        raise FlowportError(f"{name}={path} holds {held}: give a file, or a folder of one kind")
    return kinds[found[0]][1](str(path))
