"""A stand-in of a CUDA graph on any device: a replay calls the recorded operations again."""

from collections.abc import Callable

import torch

from flowport.network.recording import Recording


class Repetition(Recording):
    """As a graph does, it executes nothing while it records; unlike one, it runs Python in a replay."""

    on_device = False

    def __init__(
        self, device: torch.device, generator: torch.Generator | None = None, pool: Recording | None = None
    ) -> None:
        self.replays = 0

    def record(self, body: Callable[[], None]) -> None:
        self.body = body

    def replay(self) -> None:
        self.replays += 1
        self.body()
