"""Points in the latent space of a frozen autoencoder, decoded for pictures and metrics.

References:
    Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv:2112.10752.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from flowport.modality.base import Modality, Sound

CHUNK = 512
"""Batch size of the network."""


class Codec(nn.Module, ABC):
    """A network that encodes points as latents and decodes latents.

    A member is an ``nn.Module`` that provides ``encode`` and ``decode`` and sets ``latent_shape``. Both treat every
    item of a batch by itself.

    To add a member: subclass this class in flowport/network and pass it to ``LatentModality``, as
    ``flowport.data.space`` does.

    Attributes:
        latent_shape: Shape of one latent.
    """

    latent_shape: tuple[int, ...]

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The latents of points, (n, *latent_shape).

        Args:
            x: Points, (n, *D).
        """

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The points of latents, (n, *D).

        Args:
            z: Latents, (n, *latent_shape).
        """


class LatentModality(Modality):
    """Latents of a frozen network: x = codec.encode(inner.encode(raw)).

    ``observed`` decodes latents to points of the inner modality, differentiably, on which results are measured and
    drawn; ``embedded`` encodes such points. decode(encode(raw, None)) = raw up to the reconstruction error of the
    network. The network moves to the device of its input.

    Args:
        inner: Modality of the data.
        codec: Autoencoder of the points of the inner modality; it is set to evaluation mode and frozen.
    """

    def __init__(self, inner: Modality, codec: Codec) -> None:
        self.inner, self._codec = inner, codec.eval().requires_grad_(False)
        self.shown = inner.shown  # type: ignore[misc]

    def codec(self) -> Codec:
        return self._codec

    def meaning(self) -> dict[str, Any]:
        return self.inner.meaning()

    def surface(self) -> Modality:
        return self.inner

    def to(self, device: torch.device | str) -> "LatentModality":
        """The same modality with the constants of the inner one on a device; both share the network.

        Args:
            device: The device.
        """
        other = copy(self)
        other.inner = self.inner.to(device)
        return other

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.embedded(self.inner.encode(raw, generator))

    def decode(self, x: Tensor) -> Tensor:
        return self.inner.decode(self.observed(x))

    def embedded(self, x: Tensor) -> Tensor:
        return self._passed(x, self._codec.encode)

    def observed(self, x: Tensor) -> Tensor:
        return self._passed(x, self._codec.decode)

    def _passed(self, x: Tensor, direction: Callable[[Tensor], Tensor]) -> Tensor:
        self._codec.to(x.device)
        dtype = next((p.dtype for p in self._codec.parameters()), torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([direction(part.to(dtype)) for part in x.split(CHUNK)])

    def render(self, rows: dict[str, Tensor], path: str, unrelated: Collection[str] = ()) -> Tensor:
        return self.inner.render({name: self.observed(row) for name, row in rows.items()}, path, unrelated)

    def sheet(self, rows: dict[str, Tensor], numbers: Mapping[str, Tensor], path: str) -> Tensor:
        return self.inner.sheet({name: self.observed(row) for name, row in rows.items()}, numbers, path)

    def sound(self, x: Tensor) -> Sound | None:
        return self.inner.sound(self.observed(x))
