"""Points in the latent space of a frozen network: encoded on the device, decoded for pictures and metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowport.modality.base import Modality, Sound

CHUNK = 512
"""Points that pass through the network at once."""


class Codec(nn.Module, ABC):
    """A network that encodes points (n, *D) to latents (n, *latent_shape) and decodes them."""

    latent_shape: tuple[int, ...]

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor: ...


class LatentModality(Modality):
    """x = encode(inner.encode(raw)); the network is frozen and moves to the device of what it is given.

    ``observed`` decodes to points of the inner modality, by which results are measured and drawn, with a gradient where
    the latents ask for one; ``embedded`` is the way back. decode(encode(raw)) = raw as nearly as the network
    reconstructs.
    """

    def __init__(self, inner: Modality, codec: Codec) -> None:
        self.inner, self._codec = inner, codec.eval().requires_grad_(False)
        self.shown = inner.shown  # type: ignore[misc]

    def codec(self) -> Codec:
        return self._codec

    def surface(self) -> Modality:
        return self.inner

    def encode(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.embedded(self.inner.encode(raw, generator))

    def decode(self, x: Tensor) -> Tensor:
        return self.inner.decode(self.observed(x))

    def embedded(self, x: Tensor) -> Tensor:
        return self._passed(x, self._codec.encode)

    def observed(self, x: Tensor) -> Tensor:
        return self._passed(x, self._codec.decode)

    def _passed(self, x: Tensor, way: Callable[[Tensor], Tensor]) -> Tensor:
        self._codec.to(x.device)
        dtype = next((p.dtype for p in self._codec.parameters()), torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([way(part.to(dtype)) for part in x.split(CHUNK)])

    def render(self, rows: dict[str, Tensor], path: str) -> Tensor:
        return self.inner.render({name: self.observed(row) for name, row in rows.items()}, path)

    def sound(self, x: Tensor) -> Sound | None:
        return self.inner.sound(self.observed(x))
