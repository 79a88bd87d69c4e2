"""The record of a run for MLflow, on disk or at a tracking server."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger as LightningMlflowLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from flowport.errors import Amount
from flowport.training.logger.base import RunLogger, identifier


class MlflowLogger(RunLogger, LightningMlflowLogger):
    """Logger of MLflow, with pictures, sounds (.wav) and clouds (.ply) as artifacts; a resumed run goes on in its run.

    Args:
        folder: Folder of the run.
        done: Number of optimiser steps of the checkpoint that the run resumes from; None for a new run.
        experiment: Name of the experiment.
        tracking_uri: Where records are kept; None for the database mlflow/mlflow.db in the run's folder.
    """

    def __init__(
        self,
        folder: Path,
        done: Amount | None = None,
        experiment: str = "flowport",
        tracking_uri: str | None = None,
    ) -> None:
        self.own = Path(folder).absolute() / "mlflow"
        self.place = self.own / "id.txt"
        self.own.mkdir(parents=True, exist_ok=True)
        super().__init__(
            experiment_name=experiment,
            run_name=Path(folder).name,
            tracking_uri=tracking_uri or f"sqlite:///{self.own / 'mlflow.db'}",
            artifact_location=None if tracking_uri else (self.own / "artifacts").as_uri(),
            run_id=identifier(self.place, done),
        )

    @rank_zero_only
    def describe(self, config: str, choices: dict[str, Any], metrics: object) -> None:
        self.log_hyperparams(choices)
        self.experiment.log_text(self.run_id, config, "config.yaml")
        self.place.write_text(str(self.run_id))

    def _keep(self, name: str, step: int, ending: str, write: Callable[[Path], Any]) -> None:
        """Log a file as the artifact <name>/<step>.<ending>."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"step_{step:08}.{ending}"
            write(file)
            self.experiment.log_artifact(self.run_id, str(file), name)

    @rank_zero_only
    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        from PIL import Image

        self._keep(name, step, "png", Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save)

    @rank_zero_only
    def sound(self, name: str, wave: Tensor, rate: int, step: int) -> None:
        from scipy.io import wavfile

        self._keep(name, step, "wav", lambda file: wavfile.write(file, rate, wave.cpu().numpy()))

    @rank_zero_only
    def clouds(self, name: str, points: Tensor, colours: Tensor, step: int) -> None:
        for k, (cloud, shades) in enumerate(zip(points.cpu().tolist(), colours.cpu().tolist(), strict=True)):
            text = as_ply(cloud, shades)
            self._keep(f"{name}_{k}", step, "ply", lambda file, text=text: file.write_text(text))  # type: ignore[misc]


def as_ply(points: list[list[float]], colours: list[list[int]]) -> str:
    """A coloured point cloud as text in the PLY format.

    Args:
        points: Coordinates, N rows of 3.
        colours: RGB colours, N rows of 3.
    """
    kinds = [*(f"float {axis}" for axis in "xyz"), *(f"uchar {shade}" for shade in ("red", "green", "blue"))]
    head = ["ply", "format ascii 1.0", f"element vertex {len(points)}", *(f"property {kind}" for kind in kinds)]
    rows = [" ".join(map(str, [*point, *shade])) for point, shade in zip(points, colours, strict=True)]
    return "\n".join([*head, "end_header", *rows]) + "\n"
