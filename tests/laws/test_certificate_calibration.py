"""Whether the certificate's ± 2 standard errors cover the truth: worlds × controls × seeds, with a truth of their own.

``python -m tests.laws.test_certificate_calibration [seeds] [steps]`` prints the table of a larger trial.
"""

import sys
from dataclasses import dataclass
from functools import cache
from unittest import mock

import pytest
import torch
from torch import Tensor

from flowport.finetuning.discretisation import ConsistentDiscretisation
from flowport.finetuning.method.base import starts
from flowport.finetuning.paired_chains import BRANCHES, paired_paths
from flowport.finetuning.reliability import LEAST_STARTS, Reliability
from flowport.finetuning.two_sided import TwoSided
from flowport.sampling.grid import PowerGrid, UniformGrid
from tests.laws.known_worlds import WORLDS, World

PATHS, TRUTH, TRUTH_OF_STARTS, PIECE = 512, 32, 48, 4096
"""Paths of each chain in a certificate; how many times as many give the truth, also where every start has a law of its
own; rows that are simulated at once."""
SEEDS = {"mild": 40, "hard": 40, "classes": 40, "bridge": 160}
"""Certificates of a cell; more on the bridge, whose errors are over 32 starts."""
CONTROLS = ("untuned", "half", "exact", "overshot", "mode lost")
NUMBERS = ("kl_to_tilt", "kl_from_tilt", "share")
KNOWN_ERRORS = {
    "mild": {
        "untuned": (0.039, 0.016, 0.06),
        "half": (0.017, 0.011, 0.042),
        "exact": (0.015, 0.014, 0.02),
        "overshot": (0.021, 0.018, 0.02),
        "mode lost": (0.018, 0.103, 0.02),
    },
    "hard": {
        "untuned": (0.036, 0.013, 0.05),
        "half": (0.019, 0.013, 0.041),
        "exact": (0.017, 0.015, 0.02),
        "overshot": (0.022, 0.019, 0.02),
        "mode lost": (0.058, 0.3, 0.05),
    },
}
"""Standard errors of an independent trial in the plane with 500 paths of each chain and 60 steps; of no other world."""
LOST = {"classes": 0.3}
"""Largest share of certificates that are withheld of a lost mode, where few paths of its class are left; else 0."""


@dataclass(frozen=True)
class Cell:
    """A number of a control in a world: its truth, and the certificates of all seeds."""

    truth: float
    truth_error: float
    value: Tensor
    error: Tensor
    stands: Tensor

    @property
    def covered(self) -> float:
        """Share of the seeds that state the number whose ± 2 errors cover the truth."""
        inside = (self.value - self.truth).abs() <= 2 * self.error
        return float(inside[self.stands].double().mean())

    @property
    def withheld(self) -> float:
        return 1 - float(self.stands.double().mean())


def chain(world: World, steps: int) -> ConsistentDiscretisation:
    return ConsistentDiscretisation(PowerGrid(steps, 1.5) if world.kind == "bridge" else UniformGrid(steps))


def driven(world: World, driver: str, others: tuple[str, ...], n: int, steps: int, generator: torch.Generator):
    """Ends of n paths of one control's chain, log(chain of a control / base chain) along them for others, and groups.

    An implementation of its own: from the means and the step that was made, and not from the noise."""
    field, rest, law = world.tuned(driver), [world.tuned(name) for name in others], chain(world, steps)
    pair = world.batch(n, generator)
    groups = max(1, n // BRANCHES)
    if world.kind == "bridge":
        index = torch.arange(groups).repeat_interleave(BRANCHES)
        pair = pair.take(index, index)
    schedule, base = law.noise_schedule(field.base), field.base
    x, condition = starts(field, pair, generator)
    ratios = torch.zeros(len(others), n)
    for _, t, h, variance in schedule.steps:
        mean, velocity = law.step(base, x, t, h, variance, condition)
        if variance == 0:
            x = mean
            break
        at, s2 = (torch.full((), v).expand(n) for v in (t, variance))
        drive, *shifts = (
            h * variance * law.control(f, x, at, condition, s2, schedule.times[1], velocity) for f in (field, *rest)
        )
        x = mean + drive + (h * variance) ** 0.5 * torch.randn(x.shape, generator=generator)
        moved = (x - mean).square().sum(1)
        for ratio, shift in zip(ratios, shifts, strict=True):
            ratio += (moved - (x - mean - shift).square().sum(1)) / (2 * h * variance)
    if world.kind == "bridge":
        return x, ratios, index
    label = pair.target.label
    return x, ratios, torch.zeros(n, dtype=torch.long) if label is None else label


def in_pieces(world: World, driver: str, others: tuple[str, ...], n: int, steps: int, generator: torch.Generator):
    pieces = [driven(world, driver, others, PIECE, steps, generator) for _ in range(n // PIECE)]
    x, ratios, groups = zip(*pieces, strict=True)
    more = [k * (PIECE // BRANCHES) if world.kind == "bridge" else 0 for k in range(len(pieces))]
    index = torch.cat([g + k for g, k in zip(groups, more, strict=True)])
    return torch.cat(x).double(), torch.cat(ratios, 1).double(), index


def over_groups(values: Tensor, index: Tensor) -> Tensor:
    """Means of values over the paths of every group."""
    count = index.bincount().double()
    return torch.zeros_like(count).scatter_add(0, index, values) / count


def independent(world: World, steps: int, n: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Truths and their errors by one-sided means: of the tilt from the exact control's paths, of nearly even weights,
    of a control from its own; all from the same starts, classes and noise."""
    c = torch.tensor(world.c).double()

    def walk(driver: str, others: tuple[str, ...]):
        x, ratios, index = in_pieces(world, driver, others, n, steps, torch.Generator().manual_seed(12345))
        return x @ c, ratios, index

    r, ratios, index = walk("exact", CONTROLS)
    log_w = r - ratios[CONTROLS.index("exact")]
    log_z = over_groups(log_w.exp(), index).log()
    even = (log_w - log_z[index]).exp()
    low, found = walk("untuned", ())[0], {}
    for k, control in enumerate(CONTROLS):
        own, ratio, _ = walk(control, (control,))
        share = float((own - low).mean() / (even * r - low).mean())
        rows = {
            "kl_to_tilt": log_z[index] + even - 1 - own + ratio[0],
            "kl_from_tilt": even * (r - ratios[k] - log_z[index] + 1) - 1,
            "share": share + (own - low - share * (even * r - low)) / float((even * r - low).mean()),
        }
        for number, values in rows.items():
            units = over_groups(values, index) if world.kind == "bridge" else values
            found[control, number] = float(units.mean()), float(units.std() / len(units) ** 0.5)
    return found


def walked(
    world: World, control: str, steps: int, paths: int, seeds: int, seed: int, branches: int = BRANCHES
) -> TwoSided:
    """The paths of the certificates of all seeds as one batch, on a bridge so many branches of each chain a start."""
    generator, at_once = torch.Generator().manual_seed(seed), max(1, PIECE // paths)
    found = []
    for k in range(0, seeds, at_once):
        pair = world.batch(min(at_once, seeds - k) * paths, generator)
        args = (world.tuned(control), world.reward, 1.0, pair, generator, chain(world, steps))
        with mock.patch("flowport.finetuning.paired_chains.BRANCHES", branches):
            found.append(paired_paths(*args).sides)
    reward, ratio = (
        torch.cat([getattr(part, name).unflatten(1, (-1, paths)).movedim(1, 0) for part in found])
        for name in ("reward", "log_ratio")
    )
    group = torch.cat([part.group.view(-1, paths) for part in found])
    clustered = world.kind == "bridge"
    group = group - group[:, :1] if clustered else group
    return TwoSided(reward, ratio, group, paths // branches if clustered else found[0].groups, clustered)


@cache
def cells(name: str, seeds: int = 40, steps: int = 12, paths: int = PATHS) -> dict[tuple[str, str], Cell]:
    """All numbers of all controls of a world; the truth is a certificate of ``TRUTH`` times as many paths."""
    world, found = WORLDS[name], {}
    for control in CONTROLS:
        sides = walked(world, control, steps, paths, seeds, 1 + CONTROLS.index(control))
        more = TRUTH_OF_STARTS if world.kind == "bridge" else TRUTH
        large = walked(world, control, steps, more * PATHS, 1, 101, 2 * BRANCHES)  # of less bias a start
        trusted = Reliability(sides)
        for number in NUMBERS:
            stated, true = getattr(sides, number), getattr(large, number)
            stands = trusted.stands(number, stated)
            found[control, number] = Cell(float(true.value), float(true.error), stated.value, stated.error, stands)
    return found


def table(seeds: int = 40, steps: int = 12) -> str:
    """A line a control: truth ± its error, mean estimate ± mean error, their spread, coverage, share withheld."""
    lines = []
    for name in WORLDS:
        found = cells(name, seeds, steps)
        for control in CONTROLS:
            row = [f"{name:8s}{control:10s}"]
            for number in NUMBERS:
                cell = found[control, number]
                told = f"{cell.value.mean():7.3f} ± {cell.error.mean():.3f} (sd {cell.value.std():.3f})"
                rates = f"covers {cell.covered:.2f} withheld {cell.withheld:.2f}"
                row.append(f"{number} {cell.truth:7.3f} ± {cell.truth_error:.3f}: {told} {rates}")
            lines.append(" | ".join(row))
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_two_standard_errors_cover_the_truth(name: str) -> None:
    """In every cell, on average for every number, with errors of the known size and a truth that is known better."""
    found = cells(name, SEEDS[name])
    for number in NUMBERS:
        mine = {control: found[control, number] for control in CONTROLS}
        told = {control: round(cell.covered, 2) for control, cell in mine.items()}
        assert min(told.values()) >= 0.85 and sum(told.values()) / len(told) >= 0.9, (number, told)
        withheld = {control: cell.withheld for control, cell in mine.items()}
        lost = withheld.pop("mode lost")
        assert not any(withheld.values()), (number, withheld)
        assert lost <= LOST.get(name, 0.0), "what the tilt holds and the flow has lost is rare among its paths"
        for control, cell in mine.items():
            assert cell.truth_error <= float(cell.error.mean()) / 4, (number, control)
        for control, known in KNOWN_ERRORS.get(name, {}).items():
            assert float(mine[control].error.mean()) <= 2 * known[NUMBERS.index(number)], (number, control)


@pytest.mark.slow
def test_two_standard_errors_cover_the_truth_with_the_fewest_starts_that_are_stated() -> None:
    found = cells("bridge", SEEDS["bridge"], paths=LEAST_STARTS * BRANCHES)
    told = {key: round(cell.covered, 2) for key, cell in found.items() if cell.withheld < 0.5}
    assert min(told.values()) >= 0.85 and len(told) >= 14, told
    fewer = walked(WORLDS["bridge"], "half", 12, (LEAST_STARTS - 1) * BRANCHES, 1, 1)
    reason = f"paths from {LEAST_STARTS - 1} starts, fewer than {LEAST_STARTS}, give no standard error that covers"
    assert Reliability(fewer).doubt("kl_to_base", fewer.kl_to_base) == reason


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_the_truth_is_that_of_another_estimator(name: str) -> None:
    """One-sided, from the means and steps of the paths, with the exact control for the tilt."""
    known, found = independent(WORLDS[name], 12, 2 * PIECE), cells(name, SEEDS[name])
    for key, (value, error) in known.items():
        cell = found[key]
        assert abs(cell.truth - value) <= 3.5 * (error**2 + cell.truth_error**2) ** 0.5 + 0.002, key


if __name__ == "__main__":
    print(table(*(int(word) for word in sys.argv[1:3])))
