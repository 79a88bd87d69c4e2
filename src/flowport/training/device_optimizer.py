"""Optimisers on CUDA: fused kernels, learning rates that a CUDA graph reads, and states that load on any device."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Adamax, AdamW, Optimizer, RMSprop

FUSED = (Adam, AdamW)
"""Optimisers that have a kernel for all parameters at once."""
ZERO_AT_FIRST = (Adam, AdamW, Adamax, RMSprop)
"""Optimisers that a graph may contain and whose state is 0 before the first step."""
OF_THE_DEVICE = ("fused", "foreach", "capturable")
"""Options that say how an optimiser computes its step, not which step it is."""


def use_fused(optimizer: Optimizer) -> None:
    """Let Adam and AdamW update their CUDA parameters by one kernel, unless their options choose another way.

    Args:
        optimizer: Changed in place; its step counters move to the device of the parameters.
    """
    for group in optimizer.param_groups:
        chosen = any(group.get(option) for option in ("foreach", "differentiable")) or group.get("fused") is not None
        real = all(p.is_cuda and p.is_floating_point() for p in group["params"])
        if type(optimizer) in FUSED and not chosen and real:
            group["fused"] = True
        if group.get("fused"):
            move_counters(optimizer, group["params"])


def match_layout(optimizer: Optimizer) -> None:
    """Give moments the memory format of their parameters, which a checkpoint of another device may not have.

    Fused kernels read both in the order of memory.

    Args:
        optimizer: Changed in place.
    """
    for p, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == p.shape and value.stride() != p.stride():
                state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def move_counters(optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Move step counters, which Lightning leaves where a checkpoint was read, to the device of their parameters.

    Args:
        optimizer: Changed in place.
        parameters: Some of its parameters.
    """
    for p in parameters:
        state = optimizer.state.get(p) or {}
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(p.device, torch.float32)


def make_portable(states: Sequence[Mapping[str, Any]], settings: Sequence[Mapping[str, Any]]) -> None:
    """Replace the options of the device in saved states by those of the config, so that they load on any device.

    Args:
        states: ``state_dict`` of each optimiser, changed in place.
        settings: Options of each parameter group by the config.
    """
    for state in states:
        for group, wanted in zip(state.get("param_groups", ()), settings, strict=False):
            group.update({name: wanted[name] for name in OF_THE_DEVICE if name in wanted})


class DeviceRates:
    """The learning rates of an optimiser as tensors on a device, which a CUDA graph reads at every replay.

    Outside ``inside()`` the parameter groups hold numbers, so schedulers, loggers and checkpoints see those.

    Args:
        optimizer: The optimiser.
        device: Where its parameters are.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self.groups = optimizer.param_groups
        self.optimizer = optimizer
        self.tensors = [torch.full((), float(group["lr"]), device=device) for group in self.groups]
        self.values = [float(group["lr"]) for group in self.groups]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The groups with tensors as rates, and marked as capturable."""
        kept = [(group["lr"], group["capturable"]) for group in self.groups]
        for group, tensor in zip(self.groups, self.tensors, strict=True):
            move_counters(self.optimizer, group["params"])
            group["lr"], group["capturable"] = tensor, True
        try:
            yield
        finally:
            for group, (rate, capturable) in zip(self.groups, kept, strict=True):
                group["lr"], group["capturable"] = rate, capturable

    def fill(self) -> None:
        """Copy the rates that have changed to the device."""
        for k, group in enumerate(self.groups):
            rate = float(group["lr"])
            if rate != self.values[k]:
                self.tensors[k].fill_(rate)
                self.values[k] = rate
