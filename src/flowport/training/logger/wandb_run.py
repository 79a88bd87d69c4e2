"""The record of a run at Weights & Biases, or for it: an offline record is sent later by ``wandb sync``."""

from pathlib import Path

from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from flowport.errors import Amount
from flowport.training.logger.base import RunLogger, identifier


class WandbLogger(RunLogger, LightningWandbLogger):
    """Logger of Weights & Biases, with pictures, sounds and clouds; a resumed run goes on under its identifier.

    Args:
        folder: Folder of the run; local files are in its folder ``wandb``.
        done: Number of optimiser steps of the checkpoint that the run resumes from; None for a new run.
        project: Name of the project.
        entity: Name of the user or team; None for the default of the login.
        offline: Send nothing: the record stays in the run's folder.
    """

    def __init__(
        self,
        folder: Path,
        done: Amount | None = None,
        project: str = "flowport",
        entity: str | None = None,
        offline: bool = False,
    ) -> None:
        self.place = Path(folder) / "wandb" / "id.txt"
        own = identifier(self.place, done)
        # The start method of wandb's service is its own business; settings are made when the run is.
        super().__init__(
            name=Path(folder).name, save_dir=folder, project=project, entity=entity, offline=offline, id=own
        )

    @rank_zero_only
    def describe(self, config: str, choices: dict[str, object], metrics: object) -> None:
        self.log_hyperparams(choices)
        self._remember()

    def _remember(self) -> None:
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self.place.write_text(str(self.experiment.id))

    @rank_zero_only
    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        self.log_image(name, [pixels.permute(1, 2, 0).cpu().numpy()], step)

    @rank_zero_only
    def sound(self, name: str, wave: Tensor, rate: int, step: int) -> None:
        import wandb

        made = wandb.Audio((wave.cpu().float() / 32768).numpy(), sample_rate=rate)
        self.experiment.log({name: made, "trainer/global_step": step})

    @rank_zero_only
    def clouds(self, name: str, points: Tensor, colours: Tensor, step: int) -> None:
        import numpy as np
        import wandb

        both = np.concatenate([points.cpu().float().numpy(), colours.cpu().numpy().astype("float32")], 2)
        self.experiment.log({name: [wandb.Object3D(cloud) for cloud in both], "trainer/global_step": step})

    @rank_zero_only
    def close(self) -> None:
        self.experiment.finish()
