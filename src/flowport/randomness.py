"""Stateless randomness: every random generator is a pure function of (seed, scope, purpose, rank, step).

No generator state has to be saved for an exact resume, processes have independent noise, and validation does not change
the random numbers of training.
"""

from dataclasses import dataclass, replace
from hashlib import blake2b

import torch


@dataclass(frozen=True)
class Randomness:
    """A source of random generators, each of which is a hash of (seed, scope, purpose, rank, step).

    Args:
        seed: Seed of the run.
        rank: Number of this process among the processes of the run.
        scope: Path of names, such as ``"/train/source"``, of the part of the program that draws the numbers.
    """

    seed: int = 0
    rank: int = 0
    scope: str = ""

    def under(self, scope: str) -> "Randomness":
        """Independent randomness for a part of the program, so that two laws of one class have different draws.

        Args:
            scope: Name of the part, appended to the scope.
        """
        return replace(self, scope=f"{self.scope}/{scope}")

    def on(self, rank: int) -> "Randomness":
        """The same source for another process, whose random numbers are independent of those of this one.

        Args:
            rank: Number of the process.
        """
        return replace(self, rank=rank)

    def number(self, purpose: str, step: int = 0) -> int:
        """A 63-bit BLAKE2b hash of (seed, scope, purpose, rank, step), which seeds a generator.

        Args:
            purpose: Name of what the numbers are drawn for.
            step: Number of the step, batch or epoch.
        """
        digest = blake2b(f"{self.seed}{self.scope}/{purpose}/{self.rank}/{step}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def generator(self, purpose: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """A new torch.Generator for a purpose and a step.

        Args:
            purpose: Name of what the numbers are drawn for.
            step: Number of the step, batch or epoch.
            device: Device of the generator.
        """
        return torch.Generator(device).manual_seed(self.number(purpose, step))


def seed_network(number: int, device: torch.device) -> None:
    """Seeds torch's default generators, from which dropout draws, on the CPU and on one device.

    Unlike ``torch.manual_seed``, it does not queue a seed for absent accelerators, which would take 0.1 ms a step.

    Args:
        number: The seed.
        device: The device of the network.
    """
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(number)
