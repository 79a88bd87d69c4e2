"""Estimate of the peak of memory of a fine-tuning, before its first collection and without allocating it.

Activations are counted on tensors without data (``FakeTensorMode``), by the sizes of the storages that are alive at a
time: of the loss of a piece of rows with its gradient, of a step of the lean adjoint, and of the reward with its
gradient. What a method keeps is its ``Footprint``.

References:
    Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174 (recomputed activations).
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from flowport.finetuning.method.base import FineTuningMethod
from flowport.finetuning.tilted_field import TiltedField
from flowport.finetuning.trajectories import Trajectories
from flowport.reward.base import Reward
from flowport.types import Condition, Pair

GIB = 2**30
COPIES = 8
"""Tensors (N, *D) beside a network's activations that a loss of N points and its gradient hold at a time."""
FAILURES = (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError, AttributeError)
"""What a network or a reward may raise on tensors without data, for instance since it reads a number of them."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations have made and that are alive.

    Attributes:
        now: Bytes that are alive.
        peak: Their largest number so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if all(returned.alias_info is None for returned in func._schema.returns):  # else views and changes in place
            for x in tree_iter(result):
                if isinstance(x, Tensor):
                    self._add(x.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def dead(_: object) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, dead)
        self.now += size
        self.peak = max(self.peak, self.now)


@dataclass(frozen=True)
class Activations:
    """Bytes that are alive at a time while a piece of rows is evaluated, beside weights; None where it is not known.

    Args:
        learning: The loss and its gradient in the weights.
        path: A step of a path, without gradients; 0 where an adjoint, which holds more, hides it.
        adjoint: A step of the lean adjoint; 0 for methods without one.
        reward: The reward, with its gradient where the method needs one.
    """

    learning: int | None
    path: int | None
    adjoint: int | None
    reward: int | None

    @property
    def unknown(self) -> list[str]:
        """The names of those that are not known."""
        return [name for name, size in vars(self).items() if size is None]


def activations(
    field: TiltedField,
    reward: Reward,
    method: FineTuningMethod,
    pair: Pair,
    rows: int | None,
    autocast: torch.dtype | None = None,
    graphs: bool = False,
) -> Activations:
    """Count the activations of a piece.

    Args:
        field: The field that is trained, on any device; its pieces are of ``rows`` rows already.
        reward: The reward.
        method: The method.
        pair: A batch of starts, of which shapes and types are read.
        rows: Rows of a piece; None for all.
        autocast: Type of the trainer's autocast; None for none.
        graphs: Whether those of a path are wanted in any case.
    """
    size = method.footprint(len(pair), field.conditioning.sees_source)
    given = field.conditioning.sampling(pair.source[:1], None if pair.target.label is None else pair.target.label[:1])
    trained = [p for p in field.parameters() if p.requires_grad]

    def cast() -> AbstractContextManager[object]:
        return nullcontext() if autocast is None else torch.autocast(pair.source.x.device.type, autocast)

    def inputs(n: int) -> tuple[Tensor, Tensor, Condition]:
        n = min(n, rows or n)
        x, condition = (
            pair.source.x.new_empty(n, *pair.source.x.shape[1:]),
            given.each(lambda v: v.new_empty(n, *v.shape[1:])),
        )
        return x, x.new_full((n,), 0.5), condition

    def learning() -> None:
        with cast():
            out = method.differentiated(field, *inputs(size.points))
        torch.autograd.grad(out, trained, torch.ones_like(out), allow_unused=True)

    def path() -> None:
        with torch.no_grad(), cast():
            field.velocity(*inputs(size.paths))

    def adjoint() -> None:
        x, t, condition = inputs(size.paths)
        x.requires_grad_()
        velocity, score = field.base.velocity_and_score(x, t, condition)
        torch.autograd.grad(velocity + score, x, torch.ones_like(velocity))

    def rewarded() -> None:
        x, _, condition = inputs(size.paths)
        value = reward(x.requires_grad_(method.needs_gradient), condition)
        if method.needs_gradient:
            torch.autograd.grad(value.sum(), x)

    chain = _peak(adjoint) if size.adjoints else 0
    return Activations(_peak(learning), _peak(path) if graphs or not chain else 0, chain, _peak(rewarded))


def _peak(body: Callable[[], None]) -> int | None:
    """Largest number of bytes alive in a function of tensors without data; None where it needs their numbers."""
    live = LiveBytes()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), live:
            body()
    except FAILURES:
        return None
    return live.peak


@dataclass(frozen=True)
class PeakMemory:
    """Estimated peak of memory by parts, in bytes.

    Args:
        phase: The phase that holds most: ``"collecting"`` or ``"learning"``.
        parts: Name -> bytes in that phase.
        rows: Rows of a piece in it.
        unknown: Activations that could not be counted.
    """

    phase: str
    parts: Mapping[str, int]
    rows: int
    unknown: Sequence[str] = ()

    @property
    def total(self) -> int:
        """The peak."""
        return sum(self.parts.values())

    def sentence(self, limit: int | None = None) -> str:
        """The estimate in one line, with what to lower where it exceeds the limit.

        Args:
            limit: Bytes that the device has; None where that is not known.
        """
        parts = ", ".join(f"{name} {size / GIB:.2g}" for name, size in self.parts.items() if size)
        lost = f"; without the activations of {', '.join(self.unknown)}, which are not known" if self.unknown else ""
        text = f"about {self.total / GIB:.3g} GiB of memory at most, while {self.phase} ({parts}{lost})"
        if limit is None or self.total <= limit:
            return text
        return f"{text}, more than the {limit / GIB:.3g} GiB of this device: {self.advice(limit)}"

    def fitting(self, limit: float) -> int:
        """About as many rows of a piece as a limit allows, by activations that grow with the rows; 0 for none.

        Args:
            limit: In bytes.
        """
        held = self.parts[ACTIVATIONS] + self.parts.get("graphs", 0)  # graphs keep the activations of their pieces
        left = limit - (self.total - held)
        return int(left * self.rows // held) if held and left > 0 else 0

    def advice(self, limit: int) -> str:
        """What to write so that the estimate does not exceed the limit.

        Args:
            limit: Bytes that the device has.
        """
        if fitting := self.fitting(limit):
            return f"write rows={fitting}"
        return "lower starts, the batch and replay_size of the method, and write trajectories.device=cpu and rows=1"


ACTIVATIONS = "activations"
"""Name of the part of the activations."""


def peak_memory(
    field: TiltedField,
    ema: TiltedField,
    reward: Reward,
    method: FineTuningMethod,
    pair: Pair,
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    rows: int | None = None,
    trajectories: Trajectories | None = None,
    autocast: torch.dtype | None = None,
    graphs: bool = False,
    collections: int | None = None,
) -> PeakMemory:
    """Estimate the peak of memory of a fine-tuning.

    Args:
        field: The field that is trained, whose pieces are of ``rows`` rows already.
        ema: Its moving average.
        reward: The reward.
        method: The method.
        pair: A batch of starts, of which shapes and types are read.
        make_optimizer: Builds the optimiser, parameters -> Optimizer.
        rows: Rows of a piece; None for all.
        trajectories: How trajectories are kept; None: as they are.
        autocast: Type of the trainer's autocast; None for none.
        graphs: Whether the networks along paths are replayed as CUDA graphs, which keep their activations.
        collections: Number of collections of the whole tuning; None where it is not known.
    """
    size, kept = method.footprint(len(pair), field.conditioning.sees_source), trajectories or Trajectories()
    found, x = activations(field, reward, method, pair, rows, autocast, graphs), pair.source.x
    numbers = prod(x.shape[1:])
    own, point = size.paths * numbers * (kept.itemsize(x.dtype) if kept.device is None else 0), numbers * x.itemsize
    trained = _bytes(p for p in field.parameters() if p.requires_grad)
    path, adjoint, rewarded, learning = (v or 0 for v in (found.path, found.adjoint, found.reward, found.learning))
    kept_results = min(method.replay_size, collections or method.replay_size)
    results = 2 * kept_results * size.paths * point  # starts and ends
    joined = results * (kept_results > 1)  # a loss joins those of all collections, from which it draws
    common = {
        "weights": _of(field),
        "reward": _of(reward),
        "moving average": _of(ema.adapter),
        "gradients": trained,
        "optimiser": optimiser_bytes(make_optimizer, trained),
        "states": size.states * own,
        "adjoints": size.adjoints * own,
        "results": results,
        "graphs": (2 * path + adjoint) * graphs,
    }
    phases = {
        "collecting": (size.collected * size.paths * point, max(path, adjoint, rewarded), size.paths),
        "learning": (COPIES * size.points * point + joined, learning, size.points),
    }
    phase, (points, held, n) = max(phases.items(), key=lambda item: item[1][0] + item[1][1])
    parts = common | {"points": points, ACTIVATIONS: held}
    return PeakMemory(phase, parts, min(n, rows or n), found.unknown)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(x.nbytes for x in {id(x): x for x in tensors}.values())


def _of(module: nn.Module) -> int:
    return _bytes([*module.parameters(), *module.buffers()])


def optimiser_bytes(make: Callable[[Iterable[nn.Parameter]], Optimizer], trained: int) -> int:
    """Bytes of the moments of an optimiser, from its step for one small parameter.

    Args:
        make: Builds the optimiser, parameters -> Optimizer.
        trained: Bytes of the trained weights.
    """
    one = nn.Parameter(torch.zeros(64))
    one.grad = torch.ones_like(one)
    optimizer = make([one])
    optimizer.step()
    held = sum(v.nbytes for v in optimizer.state[one].values() if isinstance(v, Tensor) and v.numel() == len(one))
    return trained * held // one.nbytes
