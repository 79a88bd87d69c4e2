"""Tune a trained flow towards a reward, resume a tuning by launch/train.py run=<folder>, or sweep (-m sweep=<name>).

python launch/finetune.py run=<folder> reward=brightness strength=5
python launch/finetune.py experiment=finetune_mnist_class          # trains its base first, once
"""

from pathlib import Path

from flowport.run.cli import launch

CONFIGS = Path(__file__).parents[1] / "configs"


def finetune(config, folder):  # noqa: ANN201  (Hydra's task)
    """One tuned run in its folder."""
    from flowport.run.base_run import base_of
    from flowport.run.boost import boosted, check_wishes

    check_wishes(config)
    return boosted(base_of(config), config, folder)


if __name__ == "__main__":
    launch(finetune, CONFIGS, "finetune")
