"""Where stored data live while a flow trains: on its device, or on the host with batches sent over ahead of time."""

from abc import ABC, abstractmethod

import torch

from flowport.data.pairing import Pairing
from flowport.errors import FlowportError

GIB = 2**30


class Placement(ABC):
    """Both placements give the same batches, bit by bit on the same device: only time and memory differ."""

    @abstractmethod
    def place(self, pairing: Pairing, device: torch.device) -> Pairing:
        """The pairing whose points are made on ``device``."""


class ResidentPlacement(Placement):
    """Raw data (bytes of images, 16-bit waves, floats of clouds) lie on the device; nothing is copied in a step.

    gib: what source and target may take there together. Raises FlowportError for data that need more.
    """

    def __init__(self, gib: float = 4.0) -> None:
        if gib <= 0:
            raise FlowportError(
                f"data.placement.gib is {gib}; the memory that data may take on the device must be above 0"
            )
        self.gib = gib

    def place(self, pairing: Pairing, device: torch.device) -> Pairing:
        needed = pairing.stored_bytes() / GIB
        if needed > self.gib:
            raise FlowportError(
                f"source and target take {needed:.3g} GiB, more than data.placement.gib={self.gib:g}: use "
                "data=streaming, or raise it where the device has room"
            )
        return pairing.to(device)


class StreamingPlacement(Placement):
    """Raw data stay on the host, as pages of their file on disk where there is one; the raw items of a batch are
    pinned, sent without waiting and encoded on the device. With ``data.prefetch`` all this happens beside the step."""

    def place(self, pairing: Pairing, device: torch.device) -> Pairing:
        return pairing.streamed_to(device)
