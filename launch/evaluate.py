"""Measure a trained run again, with any solver, grid, volatility or metrics, into a new folder.

python launch/evaluate.py run=<folder> metric=[wasserstein] solver=heun grid=uniform grid.steps=10
"""

from pathlib import Path

from flowport.command import launch, wanted

CONFIGS = Path(__file__).parents[1] / "configs"


def evaluate(config):  # noqa: ANN201  (Hydra's task)
    """test/<metric> of a run into a folder that records whose numbers they are."""
    from hydra.core.hydra_config import HydraConfig

    from flowport.report import table
    from flowport.reuse import evaluate_again

    folder = Path(HydraConfig.get().runtime.output_dir)
    numbers = evaluate_again(Path(config.run), config, folder)
    print(table(numbers, title=str(folder)))
    return wanted(numbers, config.optimise)


if __name__ == "__main__":
    launch(evaluate, CONFIGS, "evaluate")
