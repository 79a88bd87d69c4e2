"""The LightningDataModule of the pairs of a pairing: training batches without end, and the same validation batches."""

import logging
from typing import Annotated, Literal

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from flowport.coupling.base import Coupling
from flowport.data.pairing import Pairing
from flowport.data.placement import Placement, ResidentPlacement
from flowport.data.prefetching import Batches
from flowport.data.stream import PairStream
from flowport.errors import Checked, Count, FlowportError, Range
from flowport.randomness import Randomness
from flowport.types import Pair

logger = logging.getLogger(__name__)


class PairDataModule(Checked, LightningDataModule):
    """LightningDataModule of the pairs of a pairing, re-paired by a coupling.

    Training draws from the train split of the pairing, validation from its validation split.

    Args:
        pairing: Joint law of source and target before the coupling.
        coupling: Re-pairs the points of a pool.
        randomness: Randomness of all draws.
        batch: Number of pairs in a batch.
        pool: Number of minibatches coupled at once, ``"all"`` or ``"auto"`` (see ``PairStream``).
        prefetch: Number of batches drawn and coupled ahead in a background thread; ``"auto"`` is 2 on CUDA, else 0.
        validation_items: Number of pairs of the validation loss, rounded down to batches, at least one.
        placement: Where stored data are during training; None for ``ResidentPlacement()``.
        repeat: Number of successive steps that use the same batch, for fine-tuning methods that reuse trajectories.
        block: Number of successive minibatches drawn and encoded in one go, or ``"auto"`` (see ``PairStream``).
        together: Of several processes, couple the points of all: each solves the same plan, of pools as many times as
            large as there are processes, and keeps its own rows of it. Otherwise each couples its own points.

    Raises:
        FlowportError: When repeat, batch, pool or block is below 1.
    """

    def __init__(
        self,
        pairing: Pairing,
        coupling: Coupling,
        randomness: Randomness,
        batch: int = 256,
        pool: int | Literal["all", "auto"] = 1,
        prefetch: Annotated[int, Range(least=0, most=1024)] | Literal["auto"] = "auto",
        validation_items: Count = 1024,
        placement: Placement | None = None,
        repeat: int = 1,
        block: Annotated[int, Range(least=1, most=4096)] | Literal["auto"] = "auto",
        together: bool = False,
    ) -> None:
        super().__init__()
        if repeat < 1:
            raise FlowportError(f"data.repeat must be at least 1, not {repeat}")
        self.repeat = repeat
        self.placement, self._placed = placement or ResidentPlacement(), dict[torch.device, Pairing]()
        self.pairing, self.coupling, self.randomness = pairing, coupling, randomness
        self.batch, self.pool, self.prefetch, self.validation_items = batch, pool, prefetch, validation_items
        self.block, self.together = block, together
        self.train = PairStream(pairing.split("train"), coupling, randomness.under("train"), batch, pool, block=block)
        if pool == "auto":
            logger.info("data.pool=auto is %s here", self.train.pool)

    def setup(self, stage: str) -> None:
        """Places the data and creates the streams of this process; all processes validate on the same batches.

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
            self.block,
            self.together,
        )
        if world_size > 1 and not (self.together or self.coupling.independent or self.train.pool == "all"):
            logger.info(
                "each of the %d processes couples its own points: the plan is that of pools of %d points, not of %d "
                "(data.together=true: all points at once)",
                world_size,
                self.train.pool * self.batch,
                world_size * self.train.pool * self.batch,
            )
        held_out = pairing.split("validation")
        self.held_out = PairStream(held_out, self.coupling, self.randomness.under("validation"), self.batch, block=1)

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
        ahead = self.prefetch
        if ahead == "auto":
            ahead = 2 if self.train.pairing.source.device.type == "cuda" else 0
        batches = Batches(
            lambda step: self.train.at(step), self._first_step, ahead, self.repeat, self.train.pairing.source.device
        )
        return DataLoader(batches, batch_size=None)

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
