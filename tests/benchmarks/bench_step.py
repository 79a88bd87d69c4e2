"""One training step against torchcfm, on the same tensors: ``OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_step``.

Batches of 256 points in the plane, drawn beforehand, so that nobody's sampler counts; torchcfm's MLP of width 64 and
Adam with the same flags on both sides. Every entrant runs in turn, REPEATS times; a ratio is the median of the
ratios within a repeat. Processor time is what other programs on the machine disturb least; a background thread that
couples ahead (prefetch) can show in elapsed time only, and there only while a second core is idle.
flowport in the Trainer has its moving average and its guard, and its own datamodule unless it says "same loader"; the
bare module has none of them and reads the batches from a DataLoader.
"""

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher, ExactOptimalTransportConditionalFlowMatcher
from torchcfm.models.models import MLP as TheirMLP

from flowport.coupling import Coupling, ExactCoupling, IndependentCoupling
from flowport.data.datamodule import PairDataModule
from flowport.data.pairing import UnpairedPairing
from flowport.distribution import EightGaussians, Moons
from flowport.randomness import Randomness
from flowport.training.compose import compose
from flowport.types import Pair
from tests.benchmarks.table import Cell, load, middle_half, report

BATCH, WARM, STEPS = 256, 20, 200
SEED = Randomness(0)


class Drawn(UnpairedPairing):
    """A joint whose batches were drawn beforehand."""

    def __init__(self, batches: list[Pair]) -> None:
        super().__init__(EightGaussians(), Moons())
        self.batches = batches

    def pairs(self, start: int, n: int, randomness: Randomness) -> Pair:
        return self.batches[start // n % len(self.batches)]

    def split(self, name: str) -> "Drawn":
        return self

    def to(self, device: torch.device | str) -> "Drawn":
        return self


Clocks = tuple[float, float]
CLOCKS = ("processor", "elapsed")


def now() -> Clocks:
    """Milliseconds of processor time and of elapsed time."""
    return 1e3 * time.process_time(), 1e3 * time.perf_counter()


def per_step(began: Clocks) -> Clocks:
    ended = now()
    return (ended[0] - began[0]) / STEPS, (ended[1] - began[1]) / STEPS


class Stopwatch(lightning.Callback):
    """Milliseconds a step between the end of the warm-up and the end of training."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM:
            self.began = now()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.milliseconds = per_step(self.began)


class Bare(lightning.LightningModule):
    """The least that a LightningModule can be: the same network, loss and optimiser."""

    def __init__(self, flags: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.flags = TheirMLP(dim=2, w=64, time_varying=True), flags

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        x0, x1 = pair.source.x, pair.target.x
        t = torch.rand(len(x0), 1)
        return (self.network(torch.cat([(1 - t) * x0 + t * x1, t], 1)) - (x1 - x0)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=1e-3, **self.flags)


def fitted(module: lightning.LightningModule, data: Any, callbacks: list[lightning.Callback]) -> Clocks:
    watch = Stopwatch()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=WARM + STEPS,
        limit_train_batches=WARM + STEPS,
        max_epochs=1,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, watch],
    )
    trainer.fit(module, data)
    return watch.milliseconds


def looped(step: Callable[[Pair], Tensor], optimizer: torch.optim.Optimizer, batches: list[Pair]) -> Clocks:
    for k in range(WARM + STEPS):
        if k == WARM:
            began = now()
        optimizer.zero_grad()
        step(batches[k % len(batches)]).backward()
        optimizer.step()
    return per_step(began)


class Competition:
    """All entrants on the same batches; ``flags`` go to everybody's Adam."""

    def __init__(self, batches: list[Pair], flags: dict[str, Any]) -> None:
        self.batches, self.flags = batches, flags

    def _adam(self, parameters: Iterator[torch.nn.Parameter]) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, lr=1e-3, **self.flags)

    def torchcfm(self, matcher: ConditionalFlowMatcher) -> Clocks:
        network = TheirMLP(dim=2, w=64, time_varying=True)

        def step(pair: Pair) -> Tensor:
            t, xt, ut = matcher.sample_location_and_conditional_flow(pair.source.x, pair.target.x)
            return torch.mean((network(torch.cat([xt, t[:, None]], dim=-1)) - ut) ** 2)

        return looped(step, self._adam(network.parameters()), self.batches)

    def bare_loop(self) -> Clocks:
        module = Bare(self.flags)
        return looped(lambda pair: module.training_step(pair, 0), module.configure_optimizers(), self.batches)

    def bare_trainer(self, *callbacks: lightning.Callback) -> Clocks:
        return fitted(Bare(self.flags), self._loader(), list(callbacks))

    def _loader(self) -> DataLoader[Pair]:
        def forever() -> Iterator[Pair]:
            while True:
                yield from self.batches

        class Batches(torch.utils.data.IterableDataset):
            __iter__ = staticmethod(forever)

        return DataLoader(Batches(), batch_size=None)

    def _flow(self, coupling: Coupling) -> Any:
        return compose(EightGaussians(), Moons(), coupling=coupling, optimizer=self._adam)[0]

    def ours_loop(self) -> Clocks:
        module = self._flow(IndependentCoupling())
        numbers = iter(range(WARM + STEPS))

        def step(pair: Pair) -> Tensor:
            generator = SEED.generator("objective", next(numbers))
            return module.objective.loss(module.field, pair, generator).mean

        return looped(step, self._adam(module.field.parameters()), self.batches)

    def ours_on_their_loader(self) -> Clocks:
        return fitted(self._flow(IndependentCoupling()), self._loader(), [])

    def ours_trainer(self, coupling: Coupling, prefetch: int = 0) -> Clocks:
        data = PairDataModule(Drawn(self.batches), coupling, SEED, BATCH, prefetch=prefetch)
        return fitted(self._flow(coupling), data, [])


def measured(batches: list[Pair], flags: dict[str, Any], repeats: int) -> dict[str, list[Clocks]]:
    c = Competition(batches, flags)
    exact, independent = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0), ConditionalFlowMatcher(sigma=0.0)
    entrants: dict[str, Callable[[], Clocks]] = {
        "torchcfm exact, loop": lambda: c.torchcfm(exact),
        "flowport exact, Trainer": lambda: c.ours_trainer(ExactCoupling()),
        "flowport exact, Trainer, prefetch 2": lambda: c.ours_trainer(ExactCoupling(), prefetch=2),
        "torchcfm independent, loop": lambda: c.torchcfm(independent),
        "flowport independent, loop": c.ours_loop,
        "bare module, loop": c.bare_loop,
        "bare module, Trainer": c.bare_trainer,
        "bare module, Trainer, Lightning's EMA": lambda: c.bare_trainer(EMAWeightAveraging()),
        "flowport independent, Trainer, same loader": c.ours_on_their_loader,
        "flowport independent, Trainer": lambda: c.ours_trainer(IndependentCoupling()),
    }
    times: dict[str, list[Clocks]] = {name: [] for name in entrants}
    for _ in range(repeats):
        for name, run in entrants.items():
            times[name].append(run())
    return times


RATIOS = [
    ("flowport exact, Trainer", "torchcfm exact, loop", "≤ 0.8"),
    ("flowport exact, Trainer, prefetch 2", "torchcfm exact, loop", "≤ 0.8"),
    ("flowport independent, loop", "torchcfm independent, loop", "≤ 1.0"),
    ("flowport independent, Trainer, same loader", "bare module, Trainer", "≤ 1.1"),
    ("flowport independent, Trainer", "bare module, Trainer", ""),
    ("flowport independent, Trainer", "bare module, Trainer, Lightning's EMA", ""),
    ("bare module, Trainer", "bare module, loop", "Lightning's own"),
]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args(arguments).repeats
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    batches = [UnpairedPairing(EightGaussians(), Moons()).pairs(k * BATCH, BATCH, SEED) for k in range(50)]
    for name, flags in (("default", {}), ("fused", {"fused": True})):
        times = measured(batches, flags, repeats)
        rows: list[dict[str, Cell]] = [
            {
                "ms a step, median (quartiles)": who,
                **{clock: middle_half([one[k] for one in ms]) for k, clock in enumerate(CLOCKS)},
            }
            for who, ms in times.items()
        ]
        report(f"step_{name}", f"A training step, Adam({flags or 'default'})", rows, load())
        compared: list[dict[str, Cell]] = [
            {
                "this": this,
                "over": that,
                "wanted": wanted,
                **{
                    clock: middle_half([x[k] / y[k] for x, y in zip(times[this], times[that], strict=True)])
                    for k, clock in enumerate(CLOCKS)
                },
            }
            for this, that, wanted in RATIOS
        ]
        note = f"median (quartiles) over {repeats} interleaved repeats of {STEPS} steps; {load()}"
        report(f"step_{name}_ratios", f"Ratios, Adam({flags or 'default'})", compared, note)


if __name__ == "__main__":
    main()
