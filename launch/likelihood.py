"""How likely a trained run finds held-out data: nats a point, and bits per dimension of bytes.

python launch/likelihood.py run=<folder> evaluation_items=256 solver=rk4 grid=power grid.steps=100 divergence=exact
"""

from pathlib import Path

from flowport.run.cli import launch

CONFIGS = Path(__file__).parents[1] / "configs"


def likelihood(config, folder):  # noqa: ANN201  (Hydra's task)
    """test/nll and test/bits_per_dim of a run into a folder that records whose numbers they are."""
    from flowport.run.reuse import likelihood as measure

    return measure(Path(config.run), config, folder)


if __name__ == "__main__":
    launch(likelihood, CONFIGS, "likelihood")
