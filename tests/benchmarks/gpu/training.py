"""Time of a training step in the Trainer, of its graph replayed alone, and the share of it spent waiting for data."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import lightning
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from torch.utils.data import DataLoader, IterableDataset

from flowport.run.build import Parts, flow_of
from flowport.training.callback import StepLogger
from flowport.types import Pair

ROOT = Path(__file__).parents[3]
REPLAYS = 100


@dataclass(frozen=True)
class Times:
    """Milliseconds.

    Args:
        step: Of a step in the Trainer, the median of windows.
        alone: Of the graph replayed alone; None where the step is not captured.
    """

    step: float
    alone: float | None


def configured(*words: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", list(words))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Windows(lightning.Callback):
    """Times windows of steps after a warm-up, then replays the captured step alone."""

    def __init__(self, warm: int, window: int) -> None:
        self.warm, self.window = warm, window
        self.marks: list[float] = []
        self.losses: list[torch.Tensor] = []
        self.alone: float | None = None

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].detach().clone())
        done = trainer.global_step - self.warm
        if done >= 0 and done % self.window == 0:
            synchronize(module.device)
            self.marks.append(time.perf_counter())
        if trainer.global_step == trainer.max_steps and module.captured is not None:
            began = time.perf_counter()
            for _ in range(REPLAYS):
                module.captured.step.replay()
            synchronize(module.device)
            self.alone = 1e3 * (time.perf_counter() - began) / REPLAYS

    @property
    def step(self) -> float:
        return median(1e3 * (b - a) / self.window for a, b in zip(self.marks, self.marks[1:], strict=False))


class Same(IterableDataset[Pair]):
    """One batch for ever, on the device already: a step then waits for no data."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def __iter__(self) -> Iterator[Pair]:
        while True:
            yield self.pair


def times(config: DictConfig, parts: Parts, *, same: bool = False, warm: int = 100, window: int = 100) -> Times:
    """Of five windows; the options of the config's trainer that change the step are kept.

    Args:
        config: A composed config.
        parts: Data that several calls share.
        same: Whether every step uses one batch.
        warm: Number of steps before the first window.
        window: Number of steps of a window.
    """
    flow, data, _ = flow_of(config, parts)
    kept = ("accelerator", "devices", "precision", "gradient", "accumulate", "log_every")
    options = {k: v for k, v in config.trainer.items() if k.startswith(kept)}
    steps, windows = warm + 5 * window, Windows(warm, window)
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=1,
        limit_train_batches=steps * config.trainer.accumulate_grad_batches,
        limit_val_batches=0,
        callbacks=[windows, StepLogger()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    if same:
        device = trainer.strategy.root_device
        data.train.pairing = data.placed(device).split("train")
        trainer.fit(flow, DataLoader(Same(data.train.at(0).to(device)), batch_size=None))
    else:
        trainer.fit(flow, data)
    return Times(windows.step, windows.alone)
