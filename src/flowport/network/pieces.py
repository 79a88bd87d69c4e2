"""Evaluation of a function of rows in pieces of a few rows, so that its activations are those of one piece.

References:
    Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174 (checkpointing).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowport.errors import FlowportError
from flowport.types import Condition

RowFunction = Callable[[Tensor, Tensor, Condition], Tensor]
"""A function (x, t, condition) -> result whose row k depends on the k-th rows of its arguments alone."""


def spans(n: int, rows: int | None) -> list[slice]:
    """The pieces [0, rows), [rows, 2·rows), … of n rows; only the last may be shorter.

    Args:
        n: Number of rows.
        rows: Rows of a piece; None for all at once.
    """
    size = max(n, 1) if rows is None else rows
    return [slice(first, min(first + size, n)) for first in range(0, max(n, 1), size)]


def joined(pieces: list[Tensor], dim: int = 0) -> Tensor:
    """The concatenation of pieces; a single one is not copied.

    Args:
        pieces: At least one tensor.
        dim: Dimension of the rows.
    """
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)


def in_pieces(
    function: RowFunction, rows: int | None, x: Tensor, t: Tensor, condition: Condition, random: bool = False
) -> Tensor:
    """f(x, t, condition), evaluated in pieces of ``rows`` rows.

    Where gradients are enabled only the arguments of a piece are kept, and the backward pass computes the piece a
    second time, so that it holds the activations of one piece at a time. Results and gradients are those of one
    evaluation up to rounding.

    Args:
        function: f, a function of rows.
        rows: Rows of a piece; None for all at once.
        x: Points, (B, *D).
        t: Times, (B,).
        condition: What f is conditioned on, B rows.
        random: Whether f draws from torch's default generators, for instance for dropout: the second evaluation then
            draws the same numbers. Those of B rows in pieces are others than those of B rows at once.
    """
    if rows is None or len(x) <= rows:
        return function(x, t, condition)

    def piece(at: slice) -> Tensor:
        given = x[at], t[at], condition[at]
        if not torch.is_grad_enabled():
            return function(*given)
        result: Tensor = checkpoint(function, *given, use_reentrant=False, preserve_rng_state=random)
        return result

    return torch.cat([piece(at) for at in spans(len(x), rows)])


def set_piece_rows(module: nn.Module, rows: int | None) -> None:
    """Let the networks and fields inside a module be evaluated in pieces.

    Args:
        module: For instance a field.
        rows: Rows of a piece; None for all at once.
    """
    for part in module.modules():
        if getattr(part, "piece_rows", 0) != 0:  # declared by networks and fields, and by no other module
            part.piece_rows = rows  # type: ignore[assignment]


def require_rows(rows: int | None) -> None:
    """Check the rows of a piece.

    Args:
        rows: Rows of a piece; None for all at once.

    Raises:
        FlowportError: For rows below 1.
    """
    if rows is not None and rows < 1:
        raise FlowportError(f"rows={rows} must be at least 1, or null for all rows at once")


@contextmanager
def pieces_of(rows: int | None, *modules: nn.Module) -> Iterator[None]:
    """Let the networks, fields and rewards inside modules be evaluated in pieces, and afterwards as before.

    Args:
        rows: Rows of a piece; None for all at once.
        *modules: For instance a field and a reward.

    Raises:
        FlowportError: For rows below 1.
    """
    require_rows(rows)
    parts = [part for module in modules for part in module.modules() if getattr(part, "piece_rows", 0) != 0]
    before = [part.piece_rows for part in parts]
    try:
        for module in modules:
            set_piece_rows(module, rows)
        yield
    finally:
        for part, own in zip(parts, before, strict=True):
            part.piece_rows = own


def checkpoint_blocks(module: nn.Module) -> bool:
    """Let the networks inside a module compute the activations of their blocks a second time in training.

    Args:
        module: For instance the adapter of a fine-tuning.

    Returns:
        Whether any of them can, which those do that have an option ``checkpointing``.
    """
    parts = [part for part in module.modules() if isinstance(getattr(part, "checkpointing", None), bool)]
    for part in parts:
        part.checkpointing = True  # type: ignore[assignment]
    return bool(parts)


def recomputed(block: nn.Module, on: bool, *inputs: Tensor) -> Tensor:
    """A block's output, of which a training step keeps the inputs only and computes the rest a second time.

    Args:
        block: A block without random numbers, since the state of their generator is not kept.
        on: Whether this is wanted; it happens in training mode alone, where gradients are enabled.
        *inputs: Arguments of the block.
    """
    if not (on and block.training and torch.is_grad_enabled()):
        result: Tensor = block(*inputs)
        return result
    result = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result
