"""Make the ways of a trained flow straight: it learns the pairs that it made, one round or more.

python launch/reflow.py run=<folder> rounds=1
python launch/reflow.py experiment=digits_to_mnist_reflow         # trains its base first, once
"""

from pathlib import Path

from flowport.run.cli import launch

CONFIGS = Path(__file__).parents[1] / "configs"


def reflow(config, folder):  # noqa: ANN201  (Hydra's task)
    """One reflowed run in its folder."""
    from flowport.run.base_run import base_of
    from flowport.run.reflow import reflow as straighten

    return straighten(base_of(config), config, folder)


if __name__ == "__main__":
    launch(reflow, CONFIGS, "reflow")
