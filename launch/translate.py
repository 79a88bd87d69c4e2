"""Translate points with a trained run: forward, backward or there and back (cycle).

python launch/translate.py run=<folder> direction=forward input=mine.npy solver=heun grid=uniform grid.steps=10
"""

from pathlib import Path

from flowport.run.cli import launch

CONFIGS = Path(__file__).parents[1] / "configs"


def translate(config, folder):  # noqa: ANN201  (Hydra's task)
    """Write translated.npy, metrics.json and gallery.png into a new folder."""
    from flowport.run.reuse import translate as carry

    return carry(Path(config.run), config, folder)


if __name__ == "__main__":
    launch(translate, CONFIGS, "translate")
