"""Reward by a user's network in a TorchScript file."""

import warnings
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.reward.base import Reward, in_its_precision, tried
from flowport.reward.plain import TRIED, has_gradient
from flowport.types import Condition


@final
class FromFileReward(Reward):
    """Reward by a TorchScript program f: r = f(x1), or with a label r = log p(label | x1) from logits f(x1), in nats.

    A TorchScript file holds no pickled Python, but its operations can read and write files: run a stranger's program
    only if you trust him. Files of torch.save and torch.export are refused, because loading them may run any code.

    Args:
        path: File of the program, as torch.jit.script(network).save(path) writes it.
        label: The class of a program that returns logits (B, classes); None for one that returns rewards (B,).

    Raises:
        FlowportError: When the file is not a TorchScript program.
    """

    def __init__(self, path: str, label: int | None = None) -> None:
        super().__init__()
        self.path, self.label = path, label
        self.network = load_program(path)

    def check(self, source: Distribution, target: Distribution) -> None:
        """Try the program on points of the target, and find whether it has a gradient.

        Args:
            source: The source; not used.
            target: The target.

        Raises:
            FlowportError: When the program cannot take such points.
        """
        tried(self, target, lambda x: self.value(x, Condition()))
        x = torch.randn(TRIED, *target.event_shape, generator=torch.Generator().manual_seed(0))
        self.differentiable = has_gradient(self, x, Condition())

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        """Rewards f(x1), or log p(label | x1), (B,).

        Args:
            x1: Points, (B, *D).
            condition: Not used.

        Raises:
            FlowportError: With a label, when the program does not return logits that have this class.
        """
        found = self.network(in_its_precision(self.network, x1))
        if self.label is None:
            return found
        if found.ndim != 2 or not 0 <= self.label < found.shape[1]:
            raise FlowportError(
                f"reward.label is {self.label}, but {self.path} returned the shape {tuple(found.shape)}, not "
                "logits (B, classes) that hold this class"
            )
        return log_softmax(found, 1)[:, self.label]


def load_program(path: str) -> nn.Module:
    """The TorchScript program of a file, on the CPU.

    Args:
        path: The file.

    Raises:
        FlowportError: When it is not a TorchScript program.
    """
    if not Path(path).is_file():
        raise FlowportError(
            f"reward.path={path} is not a file: give a TorchScript program (torch.jit.script, then save)"
        )
    try:
        with warnings.catch_warnings():  # torch advises torch.export, whose files can hold pickled code
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError):
        raise FlowportError(
            f"reward.path={path} is not a TorchScript program: save it by torch.jit.script(network).save(path)"
        ) from None
