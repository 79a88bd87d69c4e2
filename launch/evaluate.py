"""Measure a trained run again, with any solver, grid, volatility or metrics, into a new folder.

python launch/evaluate.py run=<folder> metric=[wasserstein] solver=heun grid=uniform grid.steps=10
"""

from pathlib import Path

from flowport.run.cli import launch

CONFIGS = Path(__file__).parents[1] / "configs"


def evaluate(config, folder):  # noqa: ANN201  (Hydra's task)
    """test/<metric> of a run into a folder that records whose numbers they are."""
    from flowport.run.reuse import evaluate_again

    return evaluate_again(Path(config.run), config, folder)


if __name__ == "__main__":
    launch(evaluate, CONFIGS, "evaluate")
