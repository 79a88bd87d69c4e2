"""Randomness without hidden state: a generator is a pure function of (seed, scope, purpose, rank, step).

Nothing needs saving for an exact resume, ranks never share noise, and validation never disturbs training.
"""

from dataclasses import dataclass, replace
from hashlib import blake2b

import torch


@dataclass(frozen=True)
class Randomness:
    """The seed of a run, the rank of this process, and whose randomness it is (for instance the source's)."""

    seed: int = 0
    rank: int = 0
    scope: str = ""

    def under(self, scope: str) -> "Randomness":
        """Independent randomness for a part: two laws of one class never share their draws."""
        return replace(self, scope=f"{self.scope}/{scope}")

    def on(self, rank: int) -> "Randomness":
        """The same randomness for another process: ranks never share noise."""
        return replace(self, rank=rank)

    def number(self, purpose: str, step: int = 0) -> int:
        """A 63-bit number that is a hash of (seed, scope, purpose, rank, step)."""
        digest = blake2b(f"{self.seed}{self.scope}/{purpose}/{self.rank}/{step}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def generator(self, purpose: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh torch.Generator for this purpose and step."""
        return torch.Generator(device).manual_seed(self.number(purpose, step))


def seed_network(number: int, device: torch.device) -> None:
    """Seed torch's own generators, from which dropout draws, on the CPU and on one device.

    torch.manual_seed also prepares every accelerator that is absent and formats a stack trace for each: 0.1 ms a step.
    """
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(number)
