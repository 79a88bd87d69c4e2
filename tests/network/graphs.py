"""A stand-in of CUDA graphs of a network's calls, on any device, that counts."""

from typing import Any

import torch

from flowport.network.recording import Recording
from tests.training.repetition import Repetition


class Graphs:
    """Makes stand-ins and counts the recordings and the replays of forward passes."""

    def __init__(self) -> None:
        self.forward: list[Repetition] = []

    def __call__(self, device: torch.device, generator: Any = None, pool: Recording | None = None) -> Recording:
        made = Repetition(device, generator, pool)
        if pool is None:  # a derivative shares the memory of its forward pass
            self.forward.append(made)
        return made

    @property
    def made(self) -> int:
        return len(self.forward)

    @property
    def replays(self) -> int:
        return sum(one.replays for one in self.forward)
