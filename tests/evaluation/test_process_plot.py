"""Two processes train one flow: each on its own shard, with its own noise, to the same weights."""

from pathlib import Path

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy

from flowport.coupling import IndependentCoupling
from flowport.distribution import Stored
from flowport.modality import Plane
from flowport.training.compose import compose
from flowport.types import Pair


class Diary(lightning.Callback):
    """Every rank writes what it saw and what it became."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ids, self.points = folder, list[torch.Tensor](), list[torch.Tensor]()

    def on_train_batch_start(self, trainer: object, module: object, batch: Pair, batch_idx: int) -> None:
        assert batch.target.id is not None
        self.ids.append(batch.target.id)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        noise = module.draws.generator("objective", 0)  # type: ignore[operator, union-attr]
        kept = {
            "ids": torch.cat(self.ids),
            "noise": torch.rand(8, generator=noise),
            **{k: v.clone() for k, v in module.state_dict().items()},
        }
        torch.save(kept, self.folder / f"{trainer.global_rank}.pt")


def stored(seed: int) -> Stored:
    x = torch.randn(48, 2, generator=torch.Generator().manual_seed(seed))
    return Stored("points", x, None, Plane(), {part: torch.arange(48) for part in ("train", "validation")})


def test_two_processes_share_the_data_and_the_weights_but_no_noise(tmp_path: Path) -> None:
    flow, data = compose(stored(0), stored(1), coupling=IndependentCoupling())
    data.batch = 8
    trainer = lightning.Trainer(
        max_steps=3,
        accelerator="cpu",
        devices=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        strategy=DDPStrategy(start_method="spawn", find_unused_parameters=False),
        callbacks=[Diary(tmp_path)],
    )
    trainer.fit(flow, data)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    ids = torch.cat([first.pop("ids"), second.pop("ids")])
    assert sorted(ids.tolist()) == list(range(48)), "three steps of two shards of eight are one epoch"
    assert not torch.isclose(first.pop("noise"), second.pop("noise")).any()
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    fresh, _ = compose(stored(0), stored(1), coupling=IndependentCoupling())
    assert not torch.equal(first["field.network.first.weight"], fresh.state_dict()["field.network.first.weight"])
