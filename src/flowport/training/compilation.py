"""Compilation of the networks that training calls, where their option ``compile`` asks for it.

It is done where training starts and nowhere else, in place: the names of the weights stay, a copy of a compiled module
is not compiled, and a run folder translates and evaluates on machines without a compiler. The moving average stays
eager, since validation, pictures and roll-outs call it with batches of other sizes, each of which would be compiled
anew.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowport.errors import FlowportError, option
from flowport.finetuning.adapter import Adapter
from flowport.network import Network

logger = logging.getLogger(__name__)
BACKEND: str | Callable[..., Any] = "inductor"
"""Backend of ``torch.compile``, in its default mode: a captured training step makes the CUDA graph itself."""


def compile_networks(field: nn.Module, device: torch.device) -> None:
    """Compile the networks of a field that are trained and whose option ``compile`` is true, each at its first call.

    Shapes are compiled as they are, since the batches of a training have one size.

    Args:
        field: The field in training; frozen networks in it, such as the base of a fine-tuning, stay as they are.
        device: Where it is trained.

    Raises:
        FlowportError: Where this machine has no compiler that works.
    """
    eager = {network for adapter in _differentiating(field) for network in _asking(adapter)}
    networks = [network for network in _asking(field) if network not in eager]
    if networks:
        _check_compiler(device.type, BACKEND)
    for network in networks:
        network.compile(backend=BACKEND, dynamic=False)


def _asking(part: nn.Module) -> list[Network]:
    """The networks in a module that are trained and whose option is true."""
    networks = [module for module in part.modules() if isinstance(module, Network) and module.to_compile]
    return [network for network in networks if any(p.requires_grad for p in network.parameters())]


def _differentiating(field: nn.Module) -> Iterator[Adapter]:
    """The adapters whose networks torch.compile cannot serve; those that ask for it are logged."""
    for adapter in field.modules():
        if isinstance(adapter, Adapter) and adapter.differentiates:
            if _asking(adapter):
                logger.info(
                    "the network of %s is not compiled: training differentiates it twice, which torch.compile cannot",
                    option("adapter", adapter),
                )
            yield adapter


@functools.cache
def _check_compiler(device: str, backend: str | Callable[..., Any]) -> None:
    """Compile the smallest function, so that what fails is the machine's compiler, and fails before training."""
    try:
        torch.compile(_doubled, backend=backend, dynamic=False)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        cause = getattr(error, "inner_exception", error)  # of torch's BackendCompilerFailed
        reason = str(cause).strip().splitlines() or [type(cause).__name__]
        raise FlowportError(
            f"network.compile=true finds no compiler that works on this machine ({reason[0]}): write "
            "network.compile=false, set TORCH_COMPILE_DISABLE=1 where the run's own config says so, or install one "
            "(g++, and on a GPU triton)"
        ) from error


def _doubled(x: Tensor) -> Tensor:
    return (x + x).sin()
