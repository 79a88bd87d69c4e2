"""Tune a trained flow towards a reward, resume a tuning by launch/train.py run=<folder>, or sweep (-m sweep=<name>).

python launch/finetune.py run=<folder> reward=brightness strength=5
python launch/finetune.py experiment=finetune_mnist_class          # trains its base first, once
"""

from pathlib import Path

from flowport.command import launch, wanted

CONFIGS = Path(__file__).parents[1] / "configs"


def finetune(config):  # noqa: ANN201  (Hydra's task)
    """One tuned run in the folder that Hydra made for it; returns the metric that a sweeper minimises."""
    from hydra.core.hydra_config import HydraConfig

    from flowport.bases import base_of
    from flowport.boosting import boosted
    from flowport.report import table

    folder = Path(HydraConfig.get().runtime.output_dir)
    numbers = boosted(base_of(config), config, folder)
    print(table(numbers, title=str(folder)))
    return wanted(numbers, config.optimise)


if __name__ == "__main__":
    launch(finetune, CONFIGS, "finetune")
