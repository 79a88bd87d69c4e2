"""What a run remembers of its two sides, so that a flow translates new files where its training data are gone."""

import inspect
from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from flowport import distribution as distributions
from flowport import modality as modalities
from flowport.distribution import AudioFolder, Gaussian
from flowport.distribution.base import Distribution, Stored
from flowport.distribution.files import Files
from flowport.errors import FlowportError
from flowport.modality import LatentModality, Modality
from flowport.network.autoencoder import Autoencoder
from flowport.randomness import Randomness
from flowport.types import EventShape, Sample

SEEN = 512
"""Number of training points whose range and deviation are remembered."""
Facts = dict[str, Any]


class RememberedData(Distribution):
    """The facts of stored data without the data: everything but drawing points.

    Args:
        facts: What ``remember`` noted.
        modality: Encodes and decodes points.
    """

    def __init__(self, facts: Mapping[str, Any], modality: Modality) -> None:
        self.modality, self.name = modality, str(facts["name"])
        self.event_shape: EventShape = tuple(int(n) for n in facts["event_shape"])
        self.classes, self.class_names = int(facts["classes"]), tuple(map(str, facts["class_names"]))
        self.label_width, self.size = int(facts["label_width"]), int(facts["size"])
        self.label_is_pitch, self.mask_padding = bool(facts["label_is_pitch"]), bool(facts["mask_padding"])
        self.range = float(facts["low"]), float(facts["high"])
        self._deviation = float(facts["deviation"])
        self.files = _files(facts["files"])

    def deviation(self) -> float:
        return self._deviation

    def _gone(self) -> FlowportError:
        return FlowportError(f"the data of {self.name} are not read for this: give input=<files> to translate")

    def sample(self, n: int, generator: torch.Generator) -> Sample:
        raise self._gone()

    def items(self, start: int, n: int, randomness: Randomness) -> Sample:
        raise self._gone()

    def every(self, n: int, randomness: Randomness) -> Sample:
        raise self._gone()

    def items_of_part(self) -> Tensor:
        return torch.arange(self.size or 0)

    def split(self, name: str) -> "RememberedData":
        return self

    def to(self, device: torch.device | str) -> "RememberedData":
        other = copy(self)
        other.device, other.modality = torch.device(device), self.modality.to(device)
        return other


def remember(side: Distribution) -> Facts | None:
    """The facts of a side as plain values; None for a law, which its config builds without data.

    None too for a modality that is not flowport's own, so that such data must be at hand.

    Args:
        side: A side in the space of the flow.
    """
    if not isinstance(side, Stored):
        return {"event_shape": list(side.event_shape)} if isinstance(side.modality, LatentModality) else None
    modality = _described(side.modality)
    if modality is None:
        return None
    x = side.split("train").every(SEEN, Randomness()).x.float()
    return {
        "name": side.name,
        "event_shape": list(side.event_shape),
        "classes": side.classes,
        "class_names": list(side.class_names),
        "label_width": side.label_width,
        "size": side.split("train").size,
        "label_is_pitch": side.label_is_pitch,
        "mask_padding": isinstance(side, AudioFolder) and side.mask_padding,
        "low": float(x.min()),
        "high": float(x.max()),
        "deviation": side.split("train").deviation(),
        "modality": modality,
        "files": None if side.files is None else [type(side.files).__name__, side.files.options()],
    }


def recalled(facts: Mapping[str, Any]) -> dict[str, Distribution]:
    """The sides that were remembered, by name; laws that a config builds are left out.

    Args:
        facts: Side -> what ``remember`` noted.

    Raises:
        FlowportError: When the facts describe no side.
    """
    codecs: list[Autoencoder] = []  # both sides share one
    made: dict[str, Distribution] = {}
    try:
        for side in ("source", "target"):
            if facts.get(side) is not None and "modality" in facts[side]:
                made[side] = RememberedData(facts[side], _modality(facts[side]["modality"], codecs))
        for side, other in (("source", "target"), ("target", "source")):
            if facts.get(side) is not None and side not in made:  # Gaussian noise in the space of latents
                shape = tuple(int(n) for n in facts[side]["event_shape"])
                made[side] = Gaussian(event_shape=shape, modality=made[other].modality)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise FlowportError(f"sides.json describes no data: {str(error)[:100] or type(error).__name__}") from None
    return made


def _described(modality: Modality) -> Facts | None:
    if isinstance(modality, LatentModality):
        codec = modality.codec()
        assert isinstance(codec, Autoencoder)
        inner = _described(modality.inner)
        return None if inner is None else {"inner": inner, "codec": list(codec.settings)}
    if vars(modalities).get(type(modality).__name__) is not type(modality):
        return None
    names = [name for name in inspect.signature(type(modality).__init__).parameters if name != "self"]
    return {"class": type(modality).__name__, "options": {name: _plain(getattr(modality, name)) for name in names}}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _modality(facts: Mapping[str, Any], codecs: list[Autoencoder]) -> Modality:
    if "inner" in facts:
        if not codecs:
            shape, channels, width = facts["codec"]
            codecs.append(Autoencoder(tuple(int(n) for n in shape), int(channels), int(width)))
        return LatentModality(_modality(facts["inner"], []), codecs[0])
    made: Modality = _member(modalities, facts["class"], Modality)(**facts["options"])
    return made


def _files(facts: Any) -> Files | None:
    if facts is None:
        return None
    name, options = facts
    made: Files = _member(distributions, name, Files)(**options)
    return made


def _member(package: Any, name: Any, base: type) -> Any:
    found = vars(package).get(str(name))
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise ValueError(f"{str(name)[:40]} is no {base.__name__.lower()}")
    return found
