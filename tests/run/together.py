"""A program for two processes that train together: an unbroken run, a resumed one, tunings, a NaN loss, a signal.

Each process leaves what it saw in <folder>/<rank>.json and its weights in <folder>/<rank>.pt.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from omegaconf import DictConfig

from flowport.errors import FlowportError
from flowport.run.finetune import tune, tuned_config
from flowport.run.rank_place import here
from flowport.run.run_folder import RunFolder
from flowport.run.stage import resume
from flowport.run.train import train
from flowport.training import ranks
from flowport.training.callback import Checkpointing
from flowport.training.finetune_module import FineTuneModule
from flowport.training.flow_module import FlowModule
from tests.run.test_finetune import BASE, TUNING, composed

BOTH = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
FLOW = (*BASE, "trainer.max_steps=50", "scheduler=constant", "data.batch=128", "checkpoint_every=1000")
LOG: dict[str, Any] = {}


def last_weights(module: type, found: list[dict[str, torch.Tensor]]) -> None:
    """Keep the weights of this process at the end of every training, and the norm of the gradients' clipping."""
    end = module.on_train_end

    def on_train_end(self) -> None:
        end(self)
        found.append({name: value.detach().clone() for name, value in self.state_dict().items()})
        LOG.setdefault("batches", []).append((self.batches, self.global_step))

    module.on_train_end = on_train_end


def tuning(base: Path, folder: Path, *words: str) -> None:
    config: DictConfig = tuned_config(
        RunFolder(base), composed("finetune", *TUNING, "scheduler=constant", *BOTH, *words)
    )
    tune(config, RunFolder(folder))


def at_nan(number: int, rank: int, folder: Path) -> str:
    """What a training says whose loss is NaN on one process at one step."""
    plain = FlowModule.batch_loss

    def batch_loss(self, pair, generator):
        loss = plain(self, pair, generator)
        return loss * float("nan") if self.batches == number and ranks.number() == rank else loss

    FlowModule.batch_loss = batch_loss
    try:
        train(composed("train", *FLOW, *BOTH, "trainer.log_every_n_steps=5"), RunFolder(folder))
    except FlowportError as error:
        return str(error)
    finally:
        FlowModule.batch_loss = plain
        ranks.leave()
    return ""


def at_signal(folder: Path) -> str:
    """What a training says where one process alone hears a signal, at the start of step 7."""
    plain = Checkpointing.on_train_batch_end

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 7 and ranks.number() == 1:
            self.received = 15
        plain(self, trainer, *rest)

    Checkpointing.on_train_batch_end = on_train_batch_end
    try:
        train(composed("train", *FLOW, *BOTH), RunFolder(folder))
    except BaseException as error:
        return str(error)
    finally:
        Checkpointing.on_train_batch_end = plain
        ranks.leave()
    return ""


def by_minutes(folder: Path) -> list[int]:
    """Steps at which a training is saved whose minutes are over on the second process alone, after steps 3 and 8."""
    plain, save, saved = Checkpointing.on_train_batch_end, Trainer.save_checkpoint, list[int]()

    def on_train_batch_end(self, trainer, *rest):
        self.seconds = 0.0 if trainer.global_step in (3, 8) and ranks.number() == 1 else math.inf
        plain(self, trainer, *rest)

    def save_checkpoint(self, *arguments):
        saved.append(self.global_step)
        save(self, *arguments)

    Checkpointing.on_train_batch_end, Trainer.save_checkpoint = on_train_batch_end, save_checkpoint
    try:
        train(composed("train", *FLOW, *BOTH, "trainer.max_steps=10"), RunFolder(folder))
    finally:
        Checkpointing.on_train_batch_end, Trainer.save_checkpoint = plain, save
    return saved


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    place, found = here(), list[dict[str, torch.Tensor]]()
    assert place is not None
    last_weights(FlowModule, found)
    last_weights(FineTuneModule, found)
    config = composed("train", *FLOW, *BOTH, "+trainer.gradient_clip_val=0.5")
    LOG["numbers"] = train(config, RunFolder(folder / "whole"))
    config.trainer.max_steps = 30
    train(config, RunFolder(folder / "broken"))
    resume(RunFolder(folder / "broken"), ["trainer.max_steps=50"])
    tuning(folder / "whole", folder / "tuned")
    tuning(folder / "whole", folder / "stopped", "trainer.max_steps=5")
    resume(RunFolder(folder / "stopped"), ["trainer.max_steps=10"])
    LOG["nan"] = at_nan(12, 1, folder / "nan")
    LOG["signal"] = at_signal(folder / "signal")
    LOG["minutes"] = by_minutes(folder / "minutes")
    tuning(folder / "whole", folder / "bounded", "watch.every=2", "stop.energy=1e-9")
    LOG["bounded"] = LOG["batches"][-1]
    torch.save(found, folder / f"{place.rank}.pt")
    (folder / f"{place.rank}.json").write_text(json.dumps(LOG, default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
