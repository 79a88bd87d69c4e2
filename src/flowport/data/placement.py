"""Placements: whether stored data are on the device during training, or on the host and sent batch by batch."""

from abc import ABC, abstractmethod

import torch

from flowport.data.pairing import Pairing
from flowport.errors import Checked, FlowportError

GIB = 2**30


class Placement(Checked, ABC):
    """The place of stored data during training.

    A member provides ``place``. All placements give the same batches, bit by bit on the same device; only time and
    memory differ.

    To add a member: subclass this class in this module and name it with ``_target_`` under ``placement`` of a new
    ``configs/data/<name>.yaml``. Tests belong to tests/data/test_placement.py.
    """

    @abstractmethod
    def place(self, pairing: Pairing, device: torch.device) -> Pairing:
        """The pairing whose points are made on a device.

        Args:
            pairing: The pairing with its data on the host.
            device: The device of training.

        Raises:
            FlowportError: When the data do not fit.
        """


class ResidentPlacement(Placement):
    """Raw data (bytes of images, int16 waves, floats of clouds) on the device, so that no step copies data.

    Args:
        gib: Memory that source and target may take together, GiB.

    Raises:
        FlowportError: When gib is not positive.
    """

    def __init__(self, gib: float = 4.0) -> None:
        if gib <= 0:
            raise FlowportError(
                f"data.placement.gib is {gib}; the memory that data may take on the device must be above 0"
            )
        self.gib = gib

    def place(self, pairing: Pairing, device: torch.device) -> Pairing:
        """The pairing with all its data on a device.

        Args:
            pairing: The pairing with its data on the host.
            device: The device of training.

        Raises:
            FlowportError: When the data take more than ``gib``.
        """
        needed = pairing.stored_bytes() / GIB
        if needed > self.gib:
            raise FlowportError(
                f"source and target take {needed:.3g} GiB, more than data.placement.gib={self.gib:g}: use "
                "data=streaming, or raise it where the device has room"
            )
        return pairing.to(device)


class StreamingPlacement(Placement):
    """Raw data on the host, memory-mapped where they have a file; the items of a batch are sent and encoded on demand.

    They are copied asynchronously from pinned memory; with ``data.prefetch`` a background thread does this ahead.
    """

    def place(self, pairing: Pairing, device: torch.device) -> Pairing:
        return pairing.streamed_to(device)
