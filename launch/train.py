"""Train a flow, resume one (run=<folder>), or sweep (-m sweep=<name>).

python launch/train.py experiment=eight_gaussians_to_moons path=trigonometric trainer.max_steps=5000
python launch/train.py run=outputs/train/digits_to_mnist/<time>
python launch/train.py -m sweep=two_dimensions hydra/launcher=joblib
"""

import sys
from pathlib import Path

from flowport.run.cli import launch, report_errors

CONFIGS = Path(__file__).parents[1] / "configs"


def train(config, folder):  # noqa: ANN201  (Hydra's task)
    """One run in its folder."""
    from hydra.utils import instantiate

    return instantiate(config.stage).run(config, folder)


def resume(folder: Path, words: list[str]) -> None:
    """Continue a run in place."""
    from flowport.evaluation.tables import table
    from flowport.run.stage import resume as go_on

    print(table(go_on(folder, words), title=str(folder)))


if __name__ == "__main__":
    runs = [word for word in sys.argv[1:] if word.startswith("run=")]
    if runs and runs[-1] != "run=null":
        with report_errors():
            resume(Path(runs[-1].removeprefix("run=")), [word for word in sys.argv[1:] if word not in runs])
    else:
        launch(train, CONFIGS, "train")
