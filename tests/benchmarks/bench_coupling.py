"""Exact coupling against torchcfm: ``python -m tests.benchmarks.bench_coupling [sizes]``.

Interleaved repeats, medians. In 2-D Gaussian points go to two clusters, in 3072 dimensions to a shifted Gaussian.
Excess: cost over scipy's optimum in float64, relative. torchcfm draws with replacement, so its plan is judged.

Then the assignments inside 256 pairs of clouds of 128 points, by threads, and POT's newer solvers beside ours. Seen on
two cores with POT 0.9.7: a warm start saves the network simplex little, which is behind scipy on reduced costs but in
2-D from 2,048 points on; the lazy one computes costs anew in every search (seconds in 3072 dimensions). By their
documentation ``ot.batch`` iterates to a tolerance and ``ot.bsp`` searches a bijection of low cost, so neither promises
the optimum; they were not timed. So none is taken.
"""

import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import ot
import torch
from ot.lp.emd_wrap import emd_c
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchcfm.optimal_transport import OTPlanSampler

from flowport.cost.earth_mover import assignments
from flowport.cost.potentials import reduced
from flowport.coupling import ExactCoupling
from flowport.coupling.assignment import _reduced, permutation
from flowport.distribution import Ellipsoid, Torus
from flowport.randomness import Randomness
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


def within_pairs() -> list[dict[str, Cell]]:
    """The search on raw and on reduced costs, with one thread and with all."""
    clouds = [law().items(0, 256, Randomness(k)).x for k, law in enumerate((Ellipsoid, Torus))]
    costs = -torch.einsum("ndi,ndj->nij", *(x.double() for x in clouds))
    known: list[tuple[str, Tensor]] = [("as they are (CPU)", costs), ("reduced on the device (CUDA)", reduced(costs))]
    rows: list[dict[str, Cell]] = []
    for name, held in known:
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            took = median(timed(partial(assignments, held)) for _ in range(5))
            rows.append({"costs": name, "threads": threads, "ms": took})
            torch.set_num_threads(1)
    return rows


def solvers(n: int, d: int) -> dict[str, Cell]:
    """Milliseconds of exact solvers of one cost, each the median of three."""
    cost = torch.cdist(*(x.double() for x in points(n, d, n + d))).square()
    raw, small, ones = cost.numpy(), _reduced(cost).numpy(), np.ones(n)
    f, g = (cost - torch.from_numpy(small))[:, 0].numpy(), (cost - torch.from_numpy(small))[0].numpy()
    most, ways = 10**8, {}
    ways["flowport"] = lambda: permutation(cost)
    ways["scipy"] = lambda: linear_sum_assignment(raw)
    ways["network simplex"] = lambda: emd_c(ones, ones, raw, most, 1, None, None)
    ways["… warm start"] = lambda: emd_c(ones, ones, raw, most, 1, f, g - f[0])
    ways["… on reduced costs"] = lambda: emd_c(ones, ones, small, most, 1, None, None)
    return {"n": n, "d": d} | {name: median(timed(way) for _ in range(3)) for name, way in ways.items()}


def main(sizes: list[str] | None = None) -> None:
    warnings.simplefilter("ignore")
    np.random.seed(0)  # noqa: NPY002 - torchcfm draws from it
    torch.set_num_threads(1)
    rows = [row(int(n), d) for d in (2, 3072) for n in sizes or ("128", "256", "512", "1024", "2048")]
    report("coupling", "Exact coupling", rows, load())
    report("coupling_within", "Assignments inside 256 pairs of 128 points", within_pairs(), load())
    compared = [solvers(int(n), d) for d in (2, 3072) for n in sizes or ("256", "512", "1024")]
    report("coupling_solvers", "Exact solvers, ms", compared, load())


if __name__ == "__main__":
    main(sys.argv[1:])
