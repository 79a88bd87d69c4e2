"""A stand-in of CUDA graphs of a network's calls, on any device."""

from collections.abc import Callable

import torch
from torch import Tensor


class Graphs:
    """Makes stand-ins and counts their replays.

    As a graph does, a stand-in reads its arguments from tensors of its own, and overwrites its last result.
    """

    def __init__(self) -> None:
        self.replays, self.made = 0, 0

    def __call__(self, function: Callable[..., Tensor], sample: tuple[Tensor, ...]) -> Callable[..., Tensor]:
        self.made += 1
        kept = [part.detach().clone() for part in sample]
        result: list[Tensor] = []

        def replay(*given: Tensor) -> Tensor:
            self.replays += 1
            if any(part.requires_grad for part in given):
                return function(*given)
            for mine, theirs in zip(kept, given, strict=True):
                mine.copy_(theirs)
            found = function(*kept)
            result[:] = result or [torch.empty_like(found)]
            return result[0].copy_(found)

        return replay
