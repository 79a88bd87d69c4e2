"""Simulations of processes with a known law, compared with it in numbers and pictures."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from flowport.cache import write_atomically
from flowport.randomness import Randomness
from flowport.sampling.process import ClosedFormProcess
from flowport.sampling.solver import StochasticHeun

SHOWN = 40
"""Number of paths that are drawn."""


def paths_of(process: ClosedFormProcess, n: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paths of a process by the stochastic Heun method on uniform times, with noise up to the end.

    Args:
        process: The process.
        n: Number of paths.
        steps: Number of steps.
        generator: Randomness of starts and noise.

    Returns:
        Times (steps+1,) and paths (steps+1, n, d).
    """
    times = torch.linspace(process.begin, process.end, steps + 1, dtype=torch.float64)
    x = process.law(process.begin).draw(n, generator)[0]
    return times, StochasticHeun(noiseless_end=False).solve(process, x, times, generator, all_states=True).states


def experiment(
    processes: Mapping[str, ClosedFormProcess], n: int, steps: int, randomness: Randomness, picture: Path
) -> dict[str, float]:
    """Mean and variance of the first coordinate at the end of every process, with exact values and standard errors.

    Also draws the picture of ``draw``.

    Args:
        processes: Processes by name.
        n: Number of paths of each.
        steps: Number of steps.
        randomness: Randomness of the simulations.
        picture: File of the picture.

    Returns:
        ``test/<process>_mean`` and ``test/<process>_variance``, each with ``_exact`` and ``_se``, its standard error.
    """
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


def draw(processes: Mapping[str, ClosedFormProcess], drawn: Mapping[str, tuple[Tensor, Tensor]], picture: Path) -> None:
    """Draw one row per process: paths with the exact mean ± two deviations, and the law at the end with a histogram.

    Args:
        processes: Processes by name.
        drawn: Times and paths of each, of ``paths_of``.
        picture: File of the picture.
    """
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
    write_atomically(Path(picture), lambda place: figure.savefig(place, dpi=110, format="png"))
