"""Does a search find what a grid finds, with half of its runs? In the plane, over five seeds of Optuna's sampler.

``make bench ARGS="compare_search <folder>"``, a few minutes; it goes on in a folder that exists. The grid has 24 runs:
coupling × path × width × learning rate; a search runs 12 of them. A search is as good where its best is at most one
standard error of a run above the grid's best, the standard deviation of the grid's best setting over five seeds of
training. Needs the extra "search".
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import stdev

ROOT = Path(__file__).parents[2]
RUN = [
    "experiment=eight_gaussians_to_moons",
    "trainer.max_steps=300",
    "+trainer.enable_progress_bar=false",
    "evaluation_items=1024",
    "data.validation_items=64",
    "metric=[wasserstein]",
    "gallery=false",
    "threads=1",
    "optimise=test/w2",
]
GRID = [
    "coupling=exact,independent",
    "path=linear,trigonometric",
    "network.width=32,128",
    "optimizer.lr=0.0003,0.001,0.003",
]
SEEDS, TRIALS = 5, 12


def sweep(folder: Path, *words: str) -> dict[str, float]:
    """The quality of every run of a sweep, by its overrides."""
    command = [sys.executable, str(ROOT / "launch" / "train.py"), "-m", *RUN, *words, f"hydra.sweep.dir={folder}"]
    subprocess.run(command, check=True)
    found, common = {}, {word.partition("=")[0] for word in RUN}
    for path in sorted(folder.glob("*/metrics.json")):
        words = json.loads((path.parent / "status.json").read_text())["overrides"]
        found[" ".join(word for word in words if word.partition("=")[0] not in common)] = json.loads(path.read_text())[
            "test/w2"
        ]
    return found


def main(words: list[str]) -> None:
    folder = Path(words[0] if words else "outputs/bench/compare_search").absolute()
    grid = sweep(folder / "grid", *GRID)
    best = min(grid, key=grid.__getitem__)
    chosen = best.split()
    again = sweep(folder / "seeds", *chosen, f"seed=range({SEEDS})")
    error = stdev(again.values())
    print(f"grid: {len(grid)} runs, best {grid[best]:.4f} ({' '.join(chosen)}), error of a run {error:.4f}")
    good = 0
    for seed in range(SEEDS):
        at = ("hydra/sweeper=optuna", f"hydra.sweeper.n_trials={TRIALS}", f"hydra.sweeper.sampler.seed={seed}")
        found = sweep(folder / f"search_{seed}", *at, *GRID)
        top = min(found, key=found.__getitem__)
        good += found[top] <= grid[best] + error
        print(f"search, seed {seed}: {len(found)} runs, best {found[top]:.4f} ({top})")
    print(f"{good} of {SEEDS} searches are at most one error above the grid's best")
