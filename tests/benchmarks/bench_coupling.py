"""Exact coupling against torchcfm: ``python -m tests.benchmarks.bench_coupling [sizes]``.

Interleaved repeats, medians. In 2-D Gaussian points go to two clusters, in 3072 dimensions to a shifted Gaussian.
Excess: cost over scipy's optimum in float64, relative. torchcfm draws with replacement, so its plan is judged.
"""

import sys
import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import ot
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchcfm.optimal_transport import OTPlanSampler

from flowport.coupling import ExactCoupling
from flowport.types import Pair, Sample
from tests.benchmarks.table import Cell, load, middle_half, report


def points(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(n, d, generator=g), torch.randn(n, d, generator=g)
    if d == 2:
        return x0, 0.3 * x1 + 2.0 * torch.randint(0, 2, (n, 1), generator=g)
    return x0, x1 + 0.5


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def row(n: int, d: int) -> dict[str, Cell]:
    x0, x1 = points(n, d, n + d)
    pair, ours, theirs = Pair(Sample(x0), Sample(x1)), ExactCoupling(), OTPlanSampler("exact")
    generator = torch.Generator().manual_seed(0)
    repeats = max(3, min(41, 20000 // n))
    times: tuple[list[float], list[float]] = ([], [])
    for k in range(repeats + 1):
        a, b = timed(lambda: theirs.sample_plan(x0, x1)), timed(lambda: ours(pair, generator))
        if k:
            times[0].append(a)
            times[1].append(b)
    cost = torch.cdist(x0.double(), x1.double()).square().numpy()
    best = cost[linear_sum_assignment(cost)].sum()
    _, log = ot.emd(ot.unif(n), ot.unif(n), torch.cdist(x0, x1).square().numpy(), log=True)
    plan = theirs.get_map(x0, x1)
    match = ours(pair, generator)
    return {
        "n": n,
        "d": d,
        "torchcfm ms": median(times[0]),
        "flowport ms": median(times[1]),
        "ratio: median (quartiles)": middle_half([b / a for a, b in zip(*times, strict=True)]),
        "torchcfm converged": "yes" if log["warning"] is None else "no",
        "torchcfm excess": f"{n * float((plan * cost).sum()) / best - 1:.1e}",
        "flowport excess": f"{cost[match.i.numpy(), match.j.numpy()].sum() / best - 1:.1e}",
    }


def main(sizes: list[str] | None = None) -> None:
    warnings.simplefilter("ignore")
    np.random.seed(0)  # noqa: NPY002 - torchcfm draws from it
    torch.set_num_threads(1)
    rows = [row(int(n), d) for d in (2, 3072) for n in sizes or ("128", "256", "512", "1024", "2048")]
    report("coupling", "Exact coupling", rows, load())


if __name__ == "__main__":
    main(sys.argv[1:])
