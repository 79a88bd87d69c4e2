"""Pairs for training: drawn, coupled and indexed by step, made on the device.

Batch ``step`` is a pure function of (randomness, step, rank): a resumed run draws what an unbroken one would have
drawn, also from the middle of a pool and with batches prefetched.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from functools import cached_property
from typing import Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from flowport.coupling.base import Coupling, Plan
from flowport.data.pairing import Pairing
from flowport.data.placement import Placement, ResidentPlacement
from flowport.errors import FlowportError
from flowport.randomness import Randomness
from flowport.tensors import sent
from flowport.types import Pair


class PairStream:
    """The training batches of a pairing under a coupling, by step.

    batch: pairs in a batch. pool: minibatches coupled at once; "all" solves the coupling once over the whole stored
    training set, keeps the pairs, and walks a new permutation of them every epoch. An independent coupling needs no
    pool. facts: what the last coupling had to say (lost mass, plan entropy).
    rank, world: of several processes each takes its own shard: together they walk the stream that one process with
    batches ``world`` times as large would walk.
    """

    def __init__(
        self,
        pairing: Pairing,
        coupling: Coupling,
        randomness: Randomness,
        batch: int,
        pool: int | Literal["all"] = 1,
        rank: int = 0,
        problem: int = 1,
    ) -> None:
        if batch < 1 or (pool != "all" and pool < 1):
            raise FlowportError(f"data.batch and data.pool must be at least 1 (or pool=all), not {batch} and {pool}")
        self.pairing, self.coupling, self.randomness = pairing, coupling, randomness
        self.batch, self.rank, self.problem = batch, rank, problem
        self.pool = 1 if coupling.independent else pool
        self.facts: Mapping[str, float | Tensor] = {}
        self._draws, self._own = randomness.under("joint"), randomness.on(rank)
        self._kept: tuple[int, Pair] | None = None

    def at(self, step: int) -> Pair:
        """The re-paired batch of a step."""
        if self.pool == "all":
            return self._from_whole(step)
        number, offset = divmod(step, self.pool)
        if self.pool == 1:
            return self._coupled(number)
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, self._coupled(number))
        return self._kept[1].take(*(slice(offset * self.batch, (offset + 1) * self.batch),) * 2)

    def facts_of(self, step: int) -> dict[str, float]:
        """What the coupling had to say of the pool of a step, and pair_cost, the mean of |x0 − x1|² over that pool's
        pairs, summed over coordinates; no batch prepared ahead can change it."""
        stream = copy(self)
        stream._kept = None
        pair = stream.at(step)
        pair = pair if stream._kept is None else stream._kept[1]
        cost = (pair.source.x - pair.target.x).double().square().sum() / len(pair)
        return {name: float(value) for name, value in {**stream.facts, "pair_cost": cost}.items()}

    def _coupled(self, number: int) -> Pair:
        """The pairs of a whole pool."""
        assert self.pool != "all"
        n, first = self.pool * self.batch, number * self.pool
        pair = self.pairing.pairs((number * self.problem + self.rank) * n, n, self._draws)
        if self.coupling.independent:
            return pair
        plan = self.coupling(pair, self._own.generator("coupling", first, pair.source.x.device))
        self.facts = plan.facts
        if self.pool == 1:
            return plan.apply(pair)
        order = torch.randperm(n, generator=self._own.generator("pool order", first))
        return plan.apply(pair, sent(order, plan.i.device))

    @cached_property
    def whole(self) -> tuple[Tensor, Tensor]:
        """Item numbers (i, j) of all pairs of the training set, solved once."""
        pair = self.pairing.whole(self.randomness.under("whole"))
        plan: Plan = self.coupling(pair, self.randomness.generator("coupling of the whole set"))
        self.facts = plan.facts
        if plan.order is not None:
            raise FlowportError(
                "data.pool=all keeps who goes with whom, but not the order of points inside a cloud: use a number"
            )
        assert pair.source.id is not None and pair.target.id is not None
        return pair.source.id[plan.i].cpu(), pair.target.id[plan.j].cpu()

    def _from_whole(self, step: int) -> Pair:
        i, j = self.whole
        rows, at = [], (step * self.problem + self.rank) * self.batch
        end = at + self.batch
        while at < end:
            epoch, offset = divmod(at, len(i))
            order = torch.randperm(len(i), generator=self.randomness.generator("order of pairs", epoch))
            rows.append(order[offset : offset + end - at])
            at += len(rows[-1])
        row = torch.cat(rows)
        noise = self._own.under("augmentation")
        device = self.pairing.source.device
        return Pair(
            self.pairing.source.draw(i[row], noise.under("source").generator("draw", step, device)),
            self.pairing.target.draw(j[row], noise.under("target").generator("draw", step, device)),
        )


class _Batches(IterableDataset):
    """Batches from a step on, every one ``repeat`` times, ``ahead`` of them prepared in a background thread."""

    def __init__(self, stream: PairStream, first: Callable[[], int], ahead: int, repeat: int = 1) -> None:
        self.stream, self.first, self.ahead, self.repeat = stream, first, ahead, repeat

    def __iter__(self) -> Iterator[Pair]:
        number, seen = divmod(self.first(), self.repeat)
        for pair in self._from(number):
            for _ in range(seen, self.repeat):
                yield pair
            seen = 0

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


class PairDataModule(LightningDataModule):
    """LightningDataModule of the pairs of a pairing, re-paired by a coupling.

    pairing: of the whole distributions; training uses its train split and validation its validation split.
    placement: whether stored data live on the device or are streamed to it; by default Resident().
    prefetch: batches drawn and coupled ahead in a background thread (0: none). validation_items: pairs of the
    validation loss. repeat: steps that see the same batch: a fine-tuning learns from its paths for some.
    """

    def __init__(
        self,
        pairing: Pairing,
        coupling: Coupling,
        randomness: Randomness,
        batch: int = 256,
        pool: int | Literal["all"] = 1,
        prefetch: int = 0,
        validation_items: int = 1024,
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

    def setup(self, stage: str) -> None:
        if self.trainer is None or stage != "fit":
            return
        pairing, rank, problem = (
            self.placed(self.trainer.strategy.root_device),
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        self.train = PairStream(
            pairing.split("train"), self.coupling, self.randomness.under("train"), self.batch, self.pool, rank, problem
        )
        held_out = pairing.split("validation")
        self.held_out = PairStream(held_out, self.coupling, self.randomness.under("validation"), self.batch)

    def placed(self, device: torch.device) -> Pairing:
        """The pairing whose points are made on a device."""
        if device not in self._placed:
            self._placed[device] = self.placement.place(self.pairing, device)
        return self._placed[device]

    def _first_step(self) -> int:
        assert self.trainer is not None
        return self.trainer.global_step * self.trainer.accumulate_grad_batches

    def train_dataloader(self) -> DataLoader[Pair]:
        return DataLoader(_Batches(self.train, self._first_step, self.prefetch, self.repeat), batch_size=None)

    def val_dataloader(self) -> DataLoader[Pair]:
        batches = max(1, self.validation_items // self.batch)
        return DataLoader([self.held_out.at(k) for k in range(batches)], batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Pair, device: torch.device, dataloader_idx: int) -> Pair:
        return batch if batch.source.x.device == device else batch.to(device)
