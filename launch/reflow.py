"""Make the ways of a trained flow straight: it learns the pairs that it made, one round or more.

python launch/reflow.py run=<folder> rounds=1
python launch/reflow.py experiment=digits_to_mnist_reflow         # trains its base first, once
"""

from pathlib import Path

from flowport.command import launch, wanted

CONFIGS = Path(__file__).parents[1] / "configs"


def reflow(config):  # noqa: ANN201  (Hydra's task)
    """One reflowed run in the folder that Hydra made for it; returns the metric that a sweeper minimises."""
    from hydra.core.hydra_config import HydraConfig

    from flowport.bases import base_of
    from flowport.reflow import reflow as straighten
    from flowport.report import table

    folder = Path(HydraConfig.get().runtime.output_dir)
    numbers = straighten(base_of(config), config, folder)
    print(table(numbers, title=str(folder)))
    return wanted(numbers, config.optimise)


if __name__ == "__main__":
    launch(reflow, CONFIGS, "reflow")
