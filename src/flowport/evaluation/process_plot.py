"""Processes of known law, integrated and drawn beside it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from flowport.randomness import Randomness
from flowport.sampling.process import KnownProcess
from flowport.sampling.solver import StochasticHeun

SHOWN = 40
"""Paths that are drawn."""


def paths_of(process: KnownProcess, n: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Times (steps+1,) and n paths (steps+1, n, d) by the stochastic Heun method, noisy to the end."""
    times = torch.linspace(process.begin, process.end, steps + 1, dtype=torch.float64)
    x = process.law(process.begin).draw(n, generator)[0]
    return times, StochasticHeun(noiseless_end=False).solve(process, x, times, generator, keep=True).states


def experiment(
    processes: Mapping[str, KnownProcess], n: int, steps: int, randomness: Randomness, picture: Path
) -> dict[str, float]:
    """test/<process>_mean and _variance of the first coordinate at its end, each with _exact and _se, its standard
    error; and a picture of paths, exact mean ± two deviations, and the histogram at the end over the exact density."""
    numbers = dict[str, float]()
    drawn = {name: paths_of(p, n, steps, randomness.generator(name)) for name, p in processes.items()}
    for name, process in processes.items():
        end, law = drawn[name][1][-1, :, 0], process.law(process.end)
        fourth = (end - end.mean()).pow(4).mean() - end.var() ** 2
        numbers |= {
            f"test/{name}_mean": float(end.mean()),
            f"test/{name}_mean_exact": float(law.mean()[0]),
            f"test/{name}_mean_se": float(end.std() / n**0.5),
            f"test/{name}_variance": float(end.var()),
            f"test/{name}_variance_exact": float(law.covariance()[0, 0]),
            f"test/{name}_variance_se": float((fourth / n).sqrt()),
        }
    draw(processes, drawn, picture)
    return numbers


def draw(processes: Mapping[str, KnownProcess], drawn: Mapping[str, tuple[Tensor, Tensor]], picture: Path) -> None:
    """A row a process: its paths in its own direction of time, and where they end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.9 * len(processes)))
    axes = figure.subplots(len(processes), 2, width_ratios=[3, 1], sharey="row", squeeze=False)
    for (left, right), (name, process) in zip(axes, processes.items(), strict=True):
        times, states = drawn[name]
        laws = [process.law(t) for t in times.tolist()]
        mean = torch.stack([law.mean()[0] for law in laws])
        wide = 2 * torch.stack([law.covariance()[0, 0] for law in laws]).sqrt()
        left.plot(times, states[:, :SHOWN, 0], color="#3b6fb6", lw=0.5, alpha=0.5)
        left.plot(times, torch.stack([mean - wide, mean, mean + wide], 1), color="black", lw=1.2)
        left.set_xlim(process.begin, process.end)
        left.set_title(f"{name.replace('_', ' ')}: mean ± 2 deviations, exact", fontsize=9)
        low, high = left.get_ylim()
        x = torch.linspace(low, high, 400, dtype=states.dtype)
        law = laws[-1]
        along = type(law).of(law.weights, law.means[:, :1], law.covariances[:, :1, :1], law.means.dtype)
        right.hist(states[-1, :, 0], bins=60, density=True, orientation="horizontal", color="#3b6fb6", alpha=0.5)
        right.plot(along.log_prob(x[:, None]).exp(), x, color="black", lw=1.2)
        right.set_title(f"law at t = {process.end:g}", fontsize=9)
    axes[-1][0].set_xlabel("t")
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
