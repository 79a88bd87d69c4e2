"""A trace of some training steps by torch's profiler."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from flowport.cache import write_atomically

logger = logging.getLogger(__name__)
FIRST, STEPS, ROWS = 20, 10, 30
"""Number of batches before the profile, number of batches in it, and rows of the table."""


class StepProfile(Callback):
    """Callback that traces ten training batches, from the drawing of the batch to the end of the step.

    The trace opens in https://ui.perfetto.dev or chrome://tracing; the table lists the operations that took most time
    on the device (on the host where there is none). Batches before the trace warm up libraries and the captured step.

    Args:
        trace: File of the trace, .json.
        table: File of the table, .txt.
    """

    def __init__(self, trace: Path, table: Path) -> None:
        self.trace, self.table = trace, table
        self.seen = 0
        self.profile: profile | None = None

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen += 1
        if self.seen == FIRST:
            cuda = [ProfilerActivity.CUDA] if module.device.type == "cuda" else []
            self.profile = profile(activities=[ProfilerActivity.CPU, *cuda])
            self.profile.start()
            self.began = time.perf_counter()
        elif self.seen == FIRST + STEPS:
            self._finish(module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.profile is not None or self.seen < FIRST:
            logger.warning("profile=true traces batches %d to %d: train more steps", FIRST + 1, FIRST + STEPS)
        if self.seen > FIRST:
            self._finish(module)
        self._stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.profile is not None:
            self.profile.stop()
            self.profile = None

    def _finish(self, module: LightningModule) -> None:
        if self.profile is None:
            return
        on_cuda = module.device.type == "cuda"
        if on_cuda:
            torch.cuda.synchronize(module.device)
        ms = 1000 * (time.perf_counter() - self.began) / max(1, self.seen - FIRST)
        self.profile.stop()
        found = self.profile
        write_atomically(self.trace, lambda file: found.export_chrome_trace(str(file)))
        order = "self_device_time_total" if on_cuda else "self_cpu_time_total"
        table = found.key_averages().table(sort_by=order, row_limit=ROWS)
        write_atomically(self.table, lambda file: file.write_text(f"{ms:.3f} ms a batch under the profiler\n\n{table}"))
        logger.info("%.3f ms a batch under the profiler; trace: %s, table: %s", ms, self.trace, self.table)
        self.profile = None
