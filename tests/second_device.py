"""A second device that every machine has: torch's ``meta``, whose tensors have shapes but no numbers.

On it a read by the host is an error, as a wait of the host is on CUDA, and every copy to it is seen. Objects move to it
as to any device.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowport.randomness import Randomness

MADE = {"tensor", "as_tensor", "new_tensor", "asarray", "scalar_tensor"}
ANSWERS = {"__bool__": True, "__int__": 0, "__float__": 0.0, "item": 0.0}


class MetaGenerator(torch.Generator):
    """A generator on the meta device, of which torch has none; nothing is drawn there."""

    device = torch.device("meta")

    def manual_seed(self, seed: int) -> "MetaGenerator":
        return self


def innermost() -> traceback.FrameSummary:
    """The innermost frame of flowport, or of its tests."""
    return next(f for f in reversed(traceback.extract_stack()) if "/flowport/" in f.filename or "/test_" in f.filename)


def place() -> str:
    """The line that is running."""
    last = innermost()
    return f"{last.filename.rsplit('/', 1)[-1]}:{last.lineno} {last.line}"


def allowed() -> bool:
    """Whether the copy is one of ``to_device``, which is asynchronous on CUDA."""
    return any(f.name == "to_device" and f.filename.endswith("tensors.py") for f in traceback.extract_stack())


class Copies(TorchDispatchMode):
    """Copies from the host to the meta device, by the line that makes them."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        there = isinstance(out, torch.Tensor) and out.device.type == "meta"
        host = [a for a in args if isinstance(a, torch.Tensor) and a.device.type == "cpu"]
        copied = func._schema.name in ("aten::_to_copy", "aten::copy_") and host
        if there and copied and not allowed():
            self.seen.append(place())
        return out


class Constants(TorchFunctionMode):
    """Tensors that are made on the meta device from numbers of the host, which a device would copy.

    With ``answers``, numbers that are read are answered as if all were finite, and the functions that read are listed.
    """

    def __init__(self, seen: list[str], answers: list[str] | None = None) -> None:
        super().__init__()
        self.seen, self.answers = seen, answers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if self.answers is not None and name in ANSWERS and args[0].device.type == "meta":
            self.answers.append(innermost().name)
            return ANSWERS[name]
        out = func(*args, **(kwargs or {}))
        if name in MADE and isinstance(out, torch.Tensor) and out.device.type == "meta" and out is not args[0]:
            self.seen.append(place())
        return out


class Memory(TorchDispatchMode):
    """The most bytes of the meta device that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most, self.alive = 0, dict[int, tuple[StorageWeakRef, int]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: held for key, held in self.alive.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return out


@contextmanager
def second_device() -> Iterator[None]:
    """Lets flowport's generators and autocast be asked for on the meta device."""
    real = Randomness.generator

    def generator(self: Randomness, purpose: str, step: int = 0, device: torch.device | str = "cpu") -> Any:
        return MetaGenerator() if torch.device(device).type == "meta" else real(self, purpose, step, device)

    def autocast(device: str, *args: Any, **options: Any) -> Any:
        return amp("cpu" if device == "meta" else device, *args, **options)

    amp = torch.autocast
    with patch.object(Randomness, "generator", generator), patch.object(torch, "autocast", autocast):
        yield


@contextmanager
def copies(answers: list[str] | None = None) -> Iterator[list[str]]:
    """Lists the copies of the host's numbers to the meta device, those of ``to_device`` left out.

    Args:
        answers: Where the functions that read a number are listed; without it a read is an error.
    """
    seen: list[str] = []
    with second_device(), Constants(seen, answers), Copies(seen):
        yield seen
