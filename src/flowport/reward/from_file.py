"""A reward of the user's, from a file that runs no Python."""

import warnings
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from flowport.distribution.base import Distribution
from flowport.errors import FlowportError
from flowport.reward.base import Reward, in_its_precision, tried
from flowport.types import Condition


@final
class FromFileReward(Reward):
    """r = f(x1) -> (B,), or with a label r = log p(label | x1) for f(x1) -> logits (B, classes), nats.

    path: a TorchScript program, torch.jit.script(network).save(path). It holds operations of torch and tensors, no
    pickled Python, which is why neither torch.save nor torch.export files are taken: reading these may run any code.
    Raises FlowportError for another file, and where f cannot take points of the target.
    """

    def __init__(self, path: str, label: int | None = None) -> None:
        super().__init__()
        self.path, self.label = path, label
        self.network = program(path)

    def check(self, source: Distribution, target: Distribution) -> None:
        tried(self, target, lambda x: self.value(x, Condition()))

    def forward(self, x1: Tensor, condition: Condition) -> Tensor:
        found = self.network(in_its_precision(self.network, x1))
        if self.label is None:
            return found
        if found.ndim != 2 or not 0 <= self.label < found.shape[1]:
            raise FlowportError(
                f"reward.label is {self.label}, but {self.path} returned the shape {tuple(found.shape)}, not "
                "logits (B, classes) that hold this class"
            )
        return log_softmax(found, 1)[:, self.label]


def program(path: str) -> nn.Module:
    """The TorchScript program of a file, on the CPU."""
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
