"""Results of a sweep of duels: reward against KL relative to the exact frontier, and tables of errors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from scipy.stats import t as student

from flowport.cache import write_atomically
from flowport.errors import FlowportError
from flowport.evaluation.sweep_table import MeanAndError
from flowport.problem import Problem
from flowport.problem.arena.score import exact, score
from flowport.problem.base import STRENGTH_MULTIPLES

PILOT = "auto"
"""Config name of the method by which the pilot chooses."""
ERRORS = ("to_tilt", "velocity_error", "weight_error", "mean_error")
STARTS = 512
"""Number of starts over which a drawn frontier is averaged."""


@dataclass(frozen=True)
class ArenaRun:
    """Scores of one method on one problem at one strength, over its seeds.

    Args:
        problem: Name of the problem.
        method: Name of the method, or of the solver that samples without training.
        strength: Strength λ of the reward.
        cells: Mean and error of every score, by name without ``arena/`` or ``train/``.
    """

    problem: str
    method: str
    strength: float
    cells: dict[str, MeanAndError]

    def __getitem__(self, name: str) -> MeanAndError:
        return self.cells[name]


def results(jobs: list[tuple[dict[str, str], dict[str, float]]]) -> list[ArenaRun]:
    """The duels of a sweep, each method on each problem at each strength over its seeds.

    Args:
        jobs: Overrides and numbers of every finished duel.

    Raises:
        FlowportError: For a job that is no duel.
    """
    found: dict[tuple[str, str, float], list[dict[str, float]]] = {}
    for overrides, numbers in jobs:
        settings = {"problem": "hard", "method": "path_weighted_adjoint", "strength": "1.0"} | overrides
        try:
            key = settings["problem"], settings.get("solver", settings["method"]), float(settings["strength"])
            if not math.isfinite(key[2]):
                raise ValueError(f"strength={key[2]}")
            placed = numbers | {f"arena/{name}": value for name, value in position(numbers).items()}
        except (KeyError, TypeError, ValueError) as error:
            raise FlowportError(f"a job of this sweep is no duel of the arena: {error!s:.100}") from None
        found.setdefault(key, []).append(placed)
    return [
        ArenaRun(*key, {name.partition("/")[2]: MeanAndError.of([run[name] for run in runs]) for name in runs[0]})
        for key, runs in sorted(found.items())
    ]


def position(run: dict[str, float]) -> dict[str, float]:
    """The position of a duel's result: KL to the base, gain in reward, KL to the tilt, and reward below the frontier.

    It is that of the law of the results where their density is known (``score.of_results``), else that of the path law,
    whose KL is at least as large; of particles it is a bound (``training_free``).

    Args:
        run: Numbers of the duel.

    Returns:
        ``place``, ``gain``, ``to_tilt`` and ``below``.
    """
    law = "law_" if "arena/law_kl" in run else ""
    kl, reward, to_tilt, best = (run[f"arena/{law}{n}"] for n in ("kl", "reward", "kl_to_tilt", "frontier_reward"))
    return {"place": kl, "gain": reward - run["arena/base_reward"], "to_tilt": to_tilt, "below": best - reward}


def confidence(cell: MeanAndError) -> float:
    """Half the width of the 95 % confidence interval of a mean, by Student's t; 0 for a single value.

    Args:
        cell: The mean.
    """
    return cell.error * float(student.ppf(0.975, cell.n - 1)) if cell.n > 1 else 0.0


def names(entries: list[ArenaRun]) -> tuple[list[str], list[str]]:
    """Names of problems and of methods, the method that is nearest to the tilt on most problems first.

    Args:
        entries: Results of the duels.
    """
    problems = sorted({e.problem for e in entries})

    def rank(method: str) -> float:
        own = [e for e in entries if e.method == method]
        return sum(
            sum(
                o["to_tilt"].mean < e["to_tilt"].mean
                for o in entries
                if (o.problem, o.strength) == (e.problem, e.strength)
            )
            for e in own
        ) / len(own)

    return problems, sorted({e.method for e in entries}, key=lambda m: (rank(m), m))


def exact_field_error(problem: Problem, strength: float, points: int = 8192) -> float:
    """KL to the tilt that ``score`` finds for the exactly tilted field, in nats: the error of the discretisation.

    On a bridge the discretisation is that of the SDE, and the value may be below 0.

    Args:
        problem: The problem.
        strength: Strength λ of the reward.
        points: Number of results.
    """
    found = score(exact(problem, strength), problem, strength, torch.Generator().manual_seed(0), points, transported=2)
    return position({f"arena/{name}": value for name, value in found.items()})["to_tilt"]


def effective_share(problem: Problem, strength: float) -> float:
    """Effective share (E e^{λr})²/E e^{2λr} of the base's results after reweighting to the tilt, mean over starts.

    Args:
        problem: The problem.
        strength: Strength λ of the reward.

    References:
        Kong, Liu and Wong 1994, "Sequential imputations and Bayesian missing data problems",
            doi:10.1080/01621459.1994.10476469 (effective sample size).
    """
    start = problem.scored_starts(STARTS, torch.Generator().manual_seed(0))
    once, twice = (problem.tilt(s, start)[1] for s in (strength, 2 * strength))
    return float((2 * once - twice).exp().mean())


def above_least(entries: list[ArenaRun]) -> MeanAndError | None:
    """KL to the tilt of the pilot's choice minus the least of the other trained methods', in nats, with its error.

    The least of several noisy means lies below their least true mean, so the difference is too large rather than too
    small. None without the pilot or without another method.

    Args:
        entries: Results on one problem at one strength.
    """
    pilot = next((e["to_tilt"] for e in entries if e.method == PILOT), None)
    trained = [e["to_tilt"] for e in entries if e.method != PILOT and "velocity_error" in e.cells]
    if pilot is None or not trained:
        return None
    least = min(trained, key=lambda cell: cell.mean)
    return MeanAndError(pilot.mean - least.mean, math.hypot(pilot.error, least.error), min(pilot.n, least.n))


def table(entries: list[ArenaRun], strength: float, problems: Mapping[str, Problem]) -> str:
    """KL to the tilt of every method (rows) on every problem (columns) and of the exact field, in nats, as Markdown.

    Args:
        entries: Results of the duels.
        strength: The strength of the table.
        problems: Problems by name.
    """
    shown, methods = names(entries)
    rows = [["KL to the tilt, nats", *shown], ["---", *["---:"] * len(shown)]]
    for method in methods:
        own = {e.problem: e["to_tilt"] for e in entries if (e.method, e.strength) == (method, strength)}
        rows.append([method, *(str(own[w]) if w in own else "" for w in shown)])
    here = [[e for e in entries if (e.problem, e.strength) == (w, strength)] for w in shown]
    if any(above := [above_least(own) for own in here]):
        rows.append([f"({PILOT} above the least of the other trained ones)", *(str(cell or "") for cell in above)])
    rows.append(
        ["(the exact field, by the same score)", *(f"{exact_field_error(problems[w], strength):.5f}" for w in shown)]
    )
    first = {e.problem: e["exact_kl"].mean for e in entries if e.strength == strength}
    rows.append(["(KL of the tilt to the base)", *(f"{first[w]:.2f}" if w in first else "" for w in shown)])
    shares = (f"{effective_share(problems[w], strength):.2g}" for w in shown)
    rows.append(["(share of the base's samples that reweighting leaves)", *shares])
    sees = {e.problem: f"{e['slope'].mean:.2f}; {e['signal'].mean:.2g}" for e in entries if e.strength == strength}
    rows.append(["(the adjoint's worst slope; least signal)", *(sees.get(w, "") for w in shown)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def full_table(entries: list[ArenaRun]) -> str:
    """All scores as Markdown, one row per problem, method and strength.

    Args:
        entries: Results of the duels.
    """
    head = [
        "problem",
        "method",
        "strength",
        "runs",
        *(e.replace("_", " ") for e in ERRORS),
        "W2 ÷ floor",
        "KL",
        "gain",
        "below the frontier",
        "calls",
        "seconds",
    ]
    rows = [head, ["---"] * len(head)]
    for e in entries:
        ratio = f"{e['w2'].mean / e['w2_floor'].mean:.2f}"
        rows.append(
            [
                e.problem,
                e.method,
                f"{e.strength:g}",
                str(e["place"].n),
                *(str(e.cells.get(name, "")) for name in ERRORS),  # a sampler without training has no velocity
                ratio,
                str(e["place"]),
                str(e["gain"]),
                str(e["below"]),
                f"{e['calls'].mean:.0f}",
                f"{e['seconds'].mean:.0f}",
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def draw(entries: list[ArenaRun], problems: Mapping[str, Problem], folder: Path) -> str:
    """Write arena.png, arena.md (one row per method) and all.md (every entry), and return the short table.

    Args:
        entries: Results of the duels.
        problems: Problems of the entries by name, for their frontiers.
        folder: Folder of the files.
    """
    strength = max(e.strength for e in entries)
    short = table(entries, strength, problems)
    (folder / "arena.md").write_text(short)
    (folder / "all.md").write_text(full_table(entries))
    picture(entries, problems, folder / "arena.png")
    return short


def picture(entries: list[ArenaRun], problems: Mapping[str, Problem], path: Path) -> None:
    """Draw one panel per problem: gain in mean reward against KL to the base.

    The exact frontier is a line and the exact tilts are crosses on it. Methods are dots with 95 % confidence intervals
    over seeds, open for a single seed, and diamonds on the edge of the panel where they are outside.

    Args:
        entries: Results of the duels.
        problems: Problems by name.
        path: File of the picture.
    """
    from matplotlib.figure import Figure

    shown, methods = names(entries)
    columns = min(4, len(shown) + 1)
    rows = -(-(len(shown) + 1) // columns)
    figure = Figure(figsize=(4.1 * columns, 3.5 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    colours = dict(zip(methods, matplotlib.colormaps["tab20"].colors, strict=False))  # type: ignore[attr-defined]
    panels = axes.flatten()
    for axis, name in zip(panels, shown, strict=False):
        own = [e for e in entries if e.problem == name]
        _frontier(axis, problems[name], sorted({e.strength for e in own}), max(e["exact_kl"].mean for e in own))
        for entry in sorted(own, key=lambda e: -methods.index(e.method)):  # the methods nearest to the tilts on top
            colour = colours.get(entry.method, "grey")
            kl, reward = entry["place"], entry["gain"]
            x, y = (
                min(max(c.mean, low), high) for c, (low, high) in ((kl, axis.get_xlim()), (reward, axis.get_ylim()))
            )
            away = (x, y) != (kl.mean, reward.mean)  # outside the panel: drawn on its edge, without error bars
            bars = (None, None) if away else (confidence(reward), confidence(kl))
            marker, *_ = axis.errorbar(
                x,
                y,
                *bars,
                fmt="D" if away else "o",
                ms=6,
                elinewidth=0.8,
                capsize=2,
                color=colour,
                label=entry.method,
                mfc=colour if kl.n > 1 else "white",
            )
            marker.set_clip_on(False)  # error bars are still clipped at the panel
        axis.set_title(name.replace("_", " "), fontsize=10)
        axis.grid(alpha=0.25)
    for axis in panels[len(shown) :]:
        axis.axis("off")
    found = dict[str, Any]()
    for axis in panels[: len(shown)]:
        found |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    order = [label for label in found if label not in methods] + methods
    panels[len(shown)].legend([found[label] for label in order], order, loc="center", fontsize=9, frameon=False)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean reward above the base's")
    figure.supxlabel("KL to the base, nats", fontsize=10)
    figure.tight_layout()
    write_atomically(Path(path), lambda place: figure.savefig(place, dpi=110, format="png"))


def _frontier(axis: "matplotlib.axes.Axes", problem: Problem, strengths: list[float], most: float) -> None:
    """Draw the frontier and the exact tilts, with limits of the axes that do not depend on the methods."""
    start = problem.scored_starts(STARTS, torch.Generator().manual_seed(0))
    kl, reward = problem.frontier(max(strengths) * STRENGTH_MULTIPLES, start)
    base = float(reward[0])
    seen, reward = kl <= 1.8 * most, reward - base
    axis.plot(kl[seen], reward[seen], color="black", lw=1.2, label="exact frontier")
    tilts = problem.frontier(torch.tensor(strengths), start)
    axis.plot(tilts[0], tilts[1] - base, "kx", ms=8, mew=1.5, label="exact tilts")
    high = float(reward[seen][-1])
    axis.set_xlim(-0.06 * most, 1.8 * most)
    axis.set_ylim(-0.15 * high, 1.1 * high)
