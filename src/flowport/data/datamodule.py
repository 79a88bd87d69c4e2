"""Training batches of coupled source and target points, made on the device and indexed by step.

The batch of a step is a pure function of (randomness, step, rank), so that a resumed run draws the batches of an
uninterrupted one, also from within a pool and with prefetching.

References:
    Pooladian et al. 2023, "Multisample Flow Matching: Straightening Flows with Minibatch Couplings", arXiv:2304.14772.
    Tong et al. 2023, "Improving and generalizing flow-based generative models with minibatch optimal transport",
        arXiv:2302.00482.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from functools import cached_property
from math import lcm
from typing import Annotated, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from flowport.coupling.base import Coupling, Plan
from flowport.data.pairing import Pairing
from flowport.data.placement import Placement, ResidentPlacement
from flowport.errors import Checked, Count, FlowportError, Range
from flowport.randomness import Randomness
from flowport.tensors import to_device
from flowport.types import Pair

logger = logging.getLogger(__name__)
MOST_PAIRS = 16
"""Largest number of pairs of a whole set, in sizes of its larger side, up to which all uses are exactly equal."""

WHOLE, POOLED = 4000, 2048
"""With pool=auto: largest training set that is coupled as a whole, and number of points of a pool of larger ones."""


class PairStream:
    """The stream of training batches (x0, x1) ~ π of a coupling π over a pairing, indexed by step.

    The coupling is solved over pools of several minibatches, or once over the whole stored training set. Several
    processes take disjoint shards of one stream: together they draw the pairs that one process with batches as many
    times as large would draw. ``facts`` holds the numbers that the last solved coupling reported (lost mass, plan
    entropy), and ``facts`` of a batch those of the plan that it was drawn from.

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

    Raises:
        FlowportError: When batch or pool is below 1.
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
    ) -> None:
        if batch < 1 or (isinstance(pool, int) and pool < 1):
            raise FlowportError(
                f"data.batch and data.pool must be at least 1 (or pool=all or auto), not {batch} and {pool}"
            )
        self.pairing, self.coupling, self.randomness = pairing, coupling, randomness
        self.batch, self.rank, self.world_size = batch, rank, world_size
        self.pool = 1 if coupling.independent else _pool_of(pool, pairing, batch)
        self.facts: Mapping[str, float | Tensor] = {}
        self._draws, self._own = randomness.under("joint"), randomness.on(rank)
        self._cached: tuple[int, Pair] | None = None
        self._kept: tuple[int, Tensor] | None = None

    def at(self, step: int) -> Pair:
        """The re-paired batch of a step.

        Args:
            step: Number of the batch, from 0.

        Raises:
            FlowportError: When the coupling cannot be solved, or source or target is not stored and the pool is "all".
        """
        if self.pool == "all":
            return self._from_whole(step)
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
        stream._cached = None
        pair = stream.at(step)
        pair = pair if stream._cached is None else stream._cached[1]
        cost = (pair.source.x - pair.target.x).double().square().sum() / len(pair)
        return {name: float(value) for name, value in {**pair.facts, "pair_cost": cost}.items()}

    def _coupled(self, number: int) -> Pair:
        """The re-paired points of the pool with a number."""
        assert self.pool != "all"
        n, first = self.pool * self.batch, number * self.pool
        pair = self.pairing.pairs((number * self.world_size + self.rank) * n, n, self._draws)
        if self.coupling.independent:
            return pair
        plan = self.coupling(pair, self._own.generator("coupling", first, pair.source.x.device))
        self.facts = plan.facts
        if self.pool == 1:
            return replace(plan.apply(pair), facts=plan.facts)
        order = torch.randperm(n, generator=self._own.generator("pool order", first))
        return replace(plan.apply(pair, to_device(order, plan.i.device)), facts=plan.facts)

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

    def _from_whole(self, step: int) -> Pair:
        i, j = self.whole
        rows, at = [], (step * self.world_size + self.rank) * self.batch
        end = at + self.batch
        while at < end:
            epoch, offset = divmod(at, len(i))
            rows.append(self._order(epoch)[offset : offset + end - at])
            at += len(rows[-1])
        row = torch.cat(rows)
        noise, device = self._own.under("augmentation").under("source"), self.pairing.source.device
        return Pair(  # both sides of a pair are augmented by the same numbers, so that they stay partners
            self.pairing.source.draw(i[row], noise.generator("draw", step, device)),
            self.pairing.target.draw(j[row], noise.generator("draw", step, device)),
            self.facts,
        )


def _pool_of(pool: int | Literal["all", "auto"], pairing: Pairing, batch: int) -> int | Literal["all"]:
    if pool != "auto":
        return pool
    sizes = pairing.source.size, pairing.target.size
    if all(size is not None and size <= WHOLE for size in sizes):
        return "all"
    return max(1, POOLED // batch)


class _Batches(IterableDataset[Pair]):
    """Endless batches from a first step on, each repeated; some of them are prepared ahead in a background thread."""

    def __init__(self, stream: PairStream, first: Callable[[], int], ahead: int, repeat: int = 1) -> None:
        self.stream, self.first, self.ahead, self.repeat = stream, first, ahead, repeat

    def __iter__(self) -> Iterator[Pair]:
        number, repeated = divmod(self.first(), self.repeat)
        for pair in self._from(number):
            for _ in range(repeated, self.repeat):
                yield pair
            repeated = 0

    def _from(self, step: int) -> Iterator[Pair]:
        if self.ahead == 0:
            while True:
                yield self.stream.at(step)
                step += 1
        with ThreadPoolExecutor(1, "coupling") as worker:
            queue: list[Future[Pair]] = [worker.submit(self.stream.at, step + k) for k in range(self.ahead)]
            try:
                while True:
                    queue.append(worker.submit(self.stream.at, step + self.ahead))
                    yield queue.pop(0).result()
                    step += 1
            finally:
                for future in queue:
                    future.cancel()


class PairDataModule(Checked, LightningDataModule):
    """LightningDataModule of the pairs of a pairing, re-paired by a coupling.

    Training draws from the train split of the pairing, validation from its validation split.

    Args:
        pairing: Joint law of source and target before the coupling.
        coupling: Re-pairs the points of a pool.
        randomness: Randomness of all draws.
        batch: Number of pairs in a batch.
        pool: Number of minibatches coupled at once, ``"all"`` or ``"auto"`` (see ``PairStream``).
        prefetch: Number of batches drawn and coupled ahead in a background thread.
        validation_items: Number of pairs of the validation loss, rounded down to batches, at least one.
        placement: Where stored data are during training; None for ``ResidentPlacement()``.
        repeat: Number of successive steps that use the same batch, for fine-tuning methods that reuse trajectories.

    Raises:
        FlowportError: When repeat, batch or pool is below 1.
    """

    def __init__(
        self,
        pairing: Pairing,
        coupling: Coupling,
        randomness: Randomness,
        batch: int = 256,
        pool: int | Literal["all", "auto"] = 1,
        prefetch: Annotated[int, Range(least=0, most=1024)] = 0,
        validation_items: Count = 1024,
        placement: Placement | None = None,
        repeat: int = 1,
    ) -> None:
        super().__init__()
        if repeat < 1:
            raise FlowportError(f"data.repeat must be at least 1, not {repeat}")
        self.repeat = repeat
        self.placement, self._placed = placement or ResidentPlacement(), dict[torch.device, Pairing]()
        self.pairing, self.coupling, self.randomness = pairing, coupling, randomness
        self.batch, self.pool, self.prefetch, self.validation_items = batch, pool, prefetch, validation_items
        self.train = PairStream(pairing.split("train"), coupling, randomness.under("train"), batch, pool)
        if pool == "auto":
            logger.info("data.pool=auto is %s here", self.train.pool)

    def setup(self, stage: str) -> None:
        """Places the data and creates the streams of this process.

        Args:
            stage: Stage of the trainer; ``"fit"`` and ``"validate"`` have an effect.
        """
        if self.trainer is None or stage not in ("fit", "validate"):
            return
        pairing, rank, world_size = (
            self.placed(self.trainer.strategy.root_device),
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        self.train = PairStream(
            pairing.split("train"),
            self.coupling,
            self.randomness.under("train"),
            self.batch,
            self.pool,
            rank,
            world_size,
        )
        held_out = pairing.split("validation")
        self.held_out = PairStream(held_out, self.coupling, self.randomness.under("validation"), self.batch)

    def placed(self, device: torch.device) -> Pairing:
        """The pairing whose points are made on a device.

        Args:
            device: The device.

        Raises:
            FlowportError: When the data do not fit the placement.
        """
        if device not in self._placed:
            self._placed[device] = self.placement.place(self.pairing, device)
        return self._placed[device]

    def _first_step(self) -> int:
        assert self.trainer is not None
        return self.trainer.global_step * self.trainer.accumulate_grad_batches

    def train_dataloader(self) -> DataLoader[Pair]:
        """Endless batches from the trainer's step on."""
        return DataLoader(_Batches(self.train, self._first_step, self.prefetch, self.repeat), batch_size=None)

    def val_dataloader(self) -> DataLoader[Pair]:
        """The same batches of the validation split in every epoch."""
        batches = max(1, self.validation_items // self.batch)
        return DataLoader([self.held_out.at(k) for k in range(batches)], batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Pair, device: torch.device, dataloader_idx: int) -> Pair:
        """The batch on a device.

        Args:
            batch: A batch of pairs.
            device: The device.
            dataloader_idx: Not used.
        """
        return batch if batch.source.x.device == device else batch.to(device)
