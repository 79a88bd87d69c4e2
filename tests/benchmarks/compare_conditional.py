"""Optimal transport under a condition, after C2OT (Cheng & Schwing, ICCV 2025): ``python -m
tests.benchmarks.compare_conditional [--steps 3000 --pool 2 --points 10000]``.

Eight Gaussians to moons, the network conditioned on which moon (discrete) or the abscissa (continuous). Plain OT makes
the start
depend on the label; a translation, whose label is independent of its start, then begins where it was never trained.
A study from flowport's parts, without Hydra: 2 labels × 3 couplings × 3 seeds, each by one Euler step and by dopri5.
"""

import argparse
import json
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from statistics import mean

import lightning
import torch

from flowport.conditioning import TargetLabelConditioning
from flowport.coupling import ConditionAwareCoupling, Coupling, ExactCoupling, IndependentCoupling
from flowport.data.datamodule import PairDataModule
from flowport.distribution import EightGaussians, Moons
from flowport.evaluation.evaluator import Evaluator
from flowport.metric.wasserstein import wasserstein_2
from flowport.network import MLP
from flowport.sampling.grid import UniformGrid
from flowport.sampling.sampler import Sampler
from flowport.sampling.solver import Dopri5, Euler, Solver
from flowport.sampling.volatility import ZeroVolatility
from flowport.training.compose import compose
from flowport.training.scheduler import CosineScheduler
from tests.benchmarks.table import OUTPUTS, Cell, load, mean_and_error, report, standard_error

LABELS = ("discrete", "continuous")


class UnawareOT(ExactCoupling):
    """Plain optimal transport under a label, which flowport refuses: what this study compares with."""

    label_aware = True


COUPLINGS: dict[str, Callable[[float], Coupling]] = {
    "no OT": lambda ratio: IndependentCoupling(),
    "plain OT": lambda ratio: UnawareOT(),
    "condition-aware OT": lambda ratio: ConditionAwareCoupling(ratio=ratio),
}
SOLVERS: dict[str, Solver] = {"1 Euler step": Euler(), "dopri5": Dopri5()}
Numbers = dict[str, float]


@dataclass(frozen=True)
class Study:
    steps: int
    batch: int
    pool: int
    ratio: float
    width: int
    lr: float
    points: int


def trained_and_measured(study: Study, label: str, coupling: str, seed: int) -> Numbers:
    """W2 between translations and fresh target points, by solver; ``floor``: real points in place of translations."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module, data = compose(
        EightGaussians(),
        Moons(continuous_label=label == "continuous"),
        coupling=COUPLINGS[coupling](study.ratio),
        conditioning=TargetLabelConditioning(),
        network=partial(MLP, width=study.width),
        optimizer=partial(torch.optim.Adam, lr=study.lr, fused=True),
        scheduler=CosineScheduler,
        data=partial(PairDataModule, batch=study.batch, pool=study.pool),
        seed=seed,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=study.steps,
        max_epochs=1,
        limit_train_batches=study.steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    numbers: Numbers = {}
    for name, solver in SOLVERS.items():
        evaluation = Evaluator(Sampler(solver, UniformGrid(1), ZeroVolatility()), {}, items=study.points)
        outcome = evaluation.outcome(module.ema, module.source, module.target, module.randomness)
        numbers[name] = float(wasserstein_2(outcome.result, outcome.target.x))
        if coupling == "no OT" and label == "discrete":
            numbers["floor"] = float(wasserstein_2(outcome.floor.x, outcome.target.x))
    return numbers


def kept(study: Study, label: str, coupling: str, seed: int) -> Numbers:
    """The same, computed once and kept in outputs/benchmarks/conditional."""
    words = [*(str(v) for v in asdict(study).values()), label, coupling.replace(" ", "-"), str(seed)]
    path = OUTPUTS / "conditional" / f"{'_'.join(words)}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(trained_and_measured(study, label, coupling, seed)))
    numbers: Numbers = json.loads(path.read_text())
    print(label, coupling, seed, {k: round(v, 4) for k, v in numbers.items()}, flush=True)
    return numbers


def versus(ours: list[float], other: list[float]) -> str:
    """Paired difference, condition-aware minus the other, and how many standard errors that is."""
    gaps = [a - b for a, b in zip(ours, other, strict=True)]
    error = standard_error(gaps)
    return f"{mean(gaps):+.4f} ({mean(gaps) / error:+.1f} SE)"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(Study(3000, 256, 2, 0.02, 64, 1e-2, 10_000)).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = vars(parser.parse_args(arguments))
    seeds, processes = range(options.pop("seeds")), options.pop("processes")
    study = Study(**options)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        cells = list(product(LABELS, COUPLINGS, seeds))
        waiting = {cell: pool.submit(kept, study, *cell) for cell in cells}
        numbers = {cell: future.result() for cell, future in waiting.items()}
    floors = [numbers["discrete", "no OT", seed]["floor"] for seed in seeds]
    rows: list[dict[str, Cell]] = []
    for label, solver in product(LABELS, SOLVERS):
        by = {c: [numbers[label, c, seed][solver] for seed in seeds] for c in COUPLINGS}
        for coupling, values in by.items():
            over = [v - f for v, f in zip(values, floors, strict=True)]
            rows.append(
                {
                    "label": label,
                    "solver": solver,
                    "coupling": coupling,
                    "W2": mean_and_error(values),
                    "excess over floor": mean_and_error(over),
                    "W2²": mean_and_error([v**2 for v in values]),
                    "condition-aware minus this": ""
                    if coupling == "condition-aware OT"
                    else versus(by["condition-aware OT"], values),
                }
            )
    note = (
        f"{study}; floor {mean_and_error(floors)}; mean ± standard error over {len(seeds)} seeds, differences "
        f"paired; {load()}"
    )
    report("conditional", "8 Gaussians to moons under a condition", rows, note)


if __name__ == "__main__":
    main()
