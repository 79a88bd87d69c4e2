"""Training batches of coupled source and target points, made on the device and indexed by step.

The batch of a step is a pure function of (randomness, step, rank, number of processes), so that a resumed run draws the
batches of an uninterrupted one, also from within a pool or a block and with prefetching.

References:
    Pooladian et al. 2023, "Multisample Flow Matching: Straightening Flows with Minibatch Couplings", arXiv:2304.14772.
    Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
        arXiv:2302.00482.
"""

import logging
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from math import lcm, prod
from typing import Literal

import torch
from torch import Tensor

from flowport.coupling.base import Coupling, Plan
from flowport.data.pairing import Pairing
from flowport.errors import FlowportError
from flowport.randomness import Randomness
from flowport.tensors import to_device
from flowport.types import Pair

logger = logging.getLogger(__name__)
MOST_PAIRS = 16
"""Largest number of pairs of a whole set, in sizes of its larger side, up to which all uses are exactly equal."""

WHOLE, POOLED = 4000, 2048
"""With pool=auto: largest training set that is coupled as a whole, and number of points of a pool of larger ones."""

BLOCK, BLOCK_POINTS, BLOCK_BYTES = 64, 2048, 2**25
"""With block=auto on CUDA: largest numbers of minibatches, of points of a side, and of bytes, raw and encoded.

Drawing a block takes its launches once, whatever its size, and several times its bytes while it is encoded.
"""


class PairStream:
    """The stream of training batches (x0, x1) ~ π of a coupling π over a pairing, indexed by step.

    The coupling is solved over pools of several minibatches, or once over the whole stored training set. ``facts``
    holds the numbers that the last solved coupling reported (lost mass, plan entropy), and ``facts`` of a batch those
    of the plan that it was drawn from.

    Several processes share one stream, of stored data and of endless laws alike. Process r of R has rows
    r·batch, …, (r + 1)·batch − 1 of the batch that one process draws with batches R times as large: all points and
    their augmentation are drawn on every process, which keeps its own rows, since a generator has no way to skip those
    of others. With an independent coupling or ``pool="all"`` the batches of R processes, joined in the order of their
    numbers, therefore equal those of that one process; any other coupling is solved by every process over its own part
    of the pool, with random numbers of its own. With ``together`` every process solves the coupling over the whole
    pools of that one process instead and keeps its own rows of each batch, so that the batches are equal as well.

    Args:
        pairing: Joint law of source and target before the coupling.
        coupling: Re-pairs the points of a pool.
        randomness: Randomness of all draws.
        batch: Number of pairs in a batch.
        pool: Number of minibatches coupled at once; ``"all"`` solves the coupling once over the whole training set and
            draws a new permutation of its pairs in every epoch; ``"auto"`` does so where each side has at most 4,000
            stored items, and else couples as many minibatches as hold 2,048 points. An independent coupling always has
            pools of 1.
        rank: Number of this process.
        world_size: Number of processes that share the stream.
        block: Number of successive minibatches that are drawn, augmented and encoded in one go, rounded down to whole
            pools, and then coupled pool by pool; ``"auto"`` is 1 on the CPU and on CUDA up to 64, of at most 2,048
            points and 32 MiB.
        together: Couple the points of all processes.

    Raises:
        FlowportError: When batch, pool or block is below 1.
    """

    def __init__(
        self,
        pairing: Pairing,
        coupling: Coupling,
        randomness: Randomness,
        batch: int,
        pool: int | Literal["all", "auto"] = 1,
        rank: int = 0,
        world_size: int = 1,
        block: int | Literal["auto"] = "auto",
        together: bool = False,
    ) -> None:
        if batch < 1 or (isinstance(pool, int) and pool < 1):
            raise FlowportError(
                f"data.batch and data.pool must be at least 1 (or pool=all or auto), not {batch} and {pool}"
            )
        if isinstance(block, int) and block < 1:
            raise FlowportError(f"data.block must be at least 1, or auto, not {block}")
        self.pairing, self.coupling, self.randomness = pairing, coupling, randomness
        self._rows: slice | None = None  # of this process in a batch of all, which is drawn as by one process
        if together and world_size > 1:
            self._rows = slice(rank * batch, (rank + 1) * batch)
            batch, rank, world_size = batch * world_size, 0, 1
        self.batch, self.rank, self.world_size = batch, rank, world_size
        self.pool = 1 if coupling.independent else _pool_of(pool, pairing, batch)
        self.block = _block_of(block, pairing, batch * world_size)
        self.facts: Mapping[str, float | Tensor] = {}
        self._draws, self._own = randomness.under("joint"), randomness.on(rank)
        self._cached: tuple[int, Pair] | None = None
        self._blocks: dict[int, Pair] = {}
        self._kept: tuple[int, Tensor] | None = None

    def at(self, step: int) -> Pair:
        """The re-paired batch of a step.

        Args:
            step: Number of the batch, from 0.

        Raises:
            FlowportError: When the coupling cannot be solved, or source or target is not stored and the pool is "all".
        """
        pair = self._at(step)
        return pair if self._rows is None else replace(pair.take(self._rows, self._rows), facts=pair.facts)

    def _at(self, step: int) -> Pair:
        if self.pool == "all":
            number, offset = divmod(step, self.block)
            return replace(self._piece(number, offset, self.batch, self._of_whole), facts=self.facts)
        number, offset = divmod(step, self.pool)
        if self.pool == 1:
            return self._coupled(number)
        if self._cached is None or self._cached[0] != number:
            self._cached = (number, self._coupled(number))
        pool = self._cached[1]
        return replace(pool.take(*(slice(offset * self.batch, (offset + 1) * self.batch),) * 2), facts=pool.facts)

    def facts_of(self, step: int) -> dict[str, float]:
        """The facts that the coupling reports on the pool of a step, and its pair cost.

        ``pair_cost`` is the mean over the pairs of the pool of |x0 − x1|², summed over coordinates. The facts are those
        of this step, whatever batches are prefetched.

        Args:
            step: Number of the batch, from 0.
        """
        stream = copy(self)
        stream._cached, stream._blocks = None, {}  # which a thread may have drawn ahead
        pair = stream._at(step)
        pair = pair if stream._cached is None else stream._cached[1]
        cost = (pair.source.x - pair.target.x).double().square().sum() / len(pair)
        return {name: float(value) for name, value in {**pair.facts, "pair_cost": cost}.items()}

    def _coupled(self, number: int) -> Pair:
        """The re-paired points of the pool with a number."""
        assert self.pool != "all"
        n, first = self.pool * self.batch, number * self.pool
        pair = self._piece(*divmod(number, max(1, self.block // self.pool)), n, self._of_stream)
        if self.coupling.independent:
            return pair
        plan = self.coupling(pair, self._own.generator("coupling", first, pair.source.x.device))
        self.facts = plan.facts
        if self.pool == 1:
            return replace(plan.apply(pair), facts=plan.facts)
        order = torch.randperm(n, generator=self._own.generator("pool order", first))
        return replace(plan.apply(pair, to_device(order, plan.i.device)), facts=plan.facts)

    def _piece(self, number: int, offset: int, n: int, draw: Callable[[int], Pair]) -> Pair:
        """Piece ``offset`` of n pairs of a block, of which the last two are kept."""
        if number not in self._blocks:
            while len(self._blocks) > 1:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[number] = draw(number)
        block, rows = self._blocks[number], slice(offset * n, (offset + 1) * n)
        return block if len(block) == n else block.take(rows, rows)

    def _of_stream(self, number: int) -> Pair:
        """The points of a block of pools before the coupling."""
        assert self.pool != "all"
        pools, each = max(1, self.block // self.pool), self.pool * self.batch
        n = pools * each * self.world_size
        return self._shard(self.pairing.pairs(number * n, n, self._draws), each)

    def _shard(self, pair: Pair, each: int) -> Pair:
        """The rows of this process among points of all: every piece of ``each`` rows of its own, in order."""
        if self.world_size == 1:
            return pair
        rows = torch.arange(len(pair)).view(-1, self.world_size, each)[:, self.rank].flatten()
        rows = to_device(rows, pair.source.x.device)
        return pair.take(rows, rows)

    @cached_property
    def whole(self) -> tuple[Tensor, Tensor]:
        """Item numbers (i, j) of all pairs of the coupling of the whole training set, which is solved once.

        Raises:
            FlowportError: When source or target is not stored, or the coupling permutes points inside clouds.
        """
        pair = self._equal_sides(self.pairing.whole(self.randomness.under("whole")))
        plan: Plan = self.coupling(pair, self.randomness.generator("coupling of the whole set"))
        self.facts = plan.facts
        if plan.order is not None:
            raise FlowportError(
                "data.pool=all keeps who goes with whom, but not the order of points inside a cloud: use a number"
            )
        assert pair.source.id is not None and pair.target.id is not None
        return pair.source.id[plan.i].cpu(), pair.target.id[plan.j].cpu()

    def _equal_sides(self, pair: Pair) -> Pair:
        """Two sides with items of the smaller one repeated, at most one of them once more than others.

        n and m points are otherwise coupled as lcm(n, m) pairs, which can be n·m.
        """
        n, m = len(pair.source), len(pair.target)
        if lcm(n, m) <= MOST_PAIRS * max(n, m):
            return pair
        length, generator = max(n, m), self.randomness.generator("repeated items")
        logger.info(
            "%d source and %d target items are coupled as %d pairs: items of the smaller side repeat", n, m, length
        )

        def rows(size: int) -> Tensor:
            rounds, rest = divmod(length, size)
            whole = torch.arange(size)
            return torch.cat([*[whole] * rounds, torch.randperm(size, generator=generator)[:rest]])

        device = pair.source.x.device
        return pair.take(rows(n).to(device), rows(m).to(device))

    def _order(self, epoch: int) -> Tensor:
        """The order of the pairs of the whole training set in an epoch, kept for the next step."""
        if self._kept is None or self._kept[0] != epoch:
            order = torch.randperm(len(self.whole[0]), generator=self.randomness.generator("order of pairs", epoch))
            self._kept = epoch, order
        return self._kept[1]

    def _of_whole(self, number: int) -> Pair:
        """The points of a block of minibatches of the coupled training set."""
        i, j = self.whole
        n, step = self.block * self.batch * self.world_size, number * self.block
        rows, at = [], number * n
        end = at + n
        while at < end:
            epoch, offset = divmod(at, len(i))
            rows.append(self._order(epoch)[offset : offset + end - at])
            at += len(rows[-1])
        row = torch.cat(rows)
        noise, device = self.randomness.under("augmentation").under("source"), self.pairing.source.device
        pair = Pair(  # both sides of a pair are augmented by the same numbers, so that they stay partners
            self.pairing.source.draw(i[row], noise.generator("draw", step, device)),
            self.pairing.target.draw(j[row], noise.generator("draw", step, device)),
        )
        return self._shard(pair, self.batch)


def _pool_of(pool: int | Literal["all", "auto"], pairing: Pairing, batch: int) -> int | Literal["all"]:
    if pool != "auto":
        return pool
    sizes = pairing.source.size, pairing.target.size
    if all(size is not None and size <= WHOLE for size in sizes):
        return "all"
    return max(1, POOLED // batch)


def _block_of(block: int | Literal["auto"], pairing: Pairing, batch: int) -> int:
    if block != "auto":
        return block
    sides = pairing.source, pairing.target
    if sides[0].device.type != "cuda":
        return 1
    raw = sum(side.stored_bytes() / side.size for side in sides if side.size)
    each = batch * (raw + 8 * prod(sides[0].event_shape))  # both sides, float32
    return max(1, min(BLOCK, BLOCK_POINTS // batch, int(BLOCK_BYTES / each)))
