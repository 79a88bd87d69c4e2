"""What a sweep does when its jobs have ended."""

from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class StudyAtEnd(Callback):
    """Hydra callback by which a sweep ends with its table and its study, also where a job of it was refused.

    In a sweep's config: ``hydra.callbacks.study._target_: flowport.run.sweep_end.StudyAtEnd``.

    Attributes:
        folder: The folder of the sweep that has begun, which ``flowport.run.commands`` reads at its end.
    """

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the sweep's folder.

        Args:
            config: The config with Hydra's own node.
            **kwargs: Not used.
        """
        StudyAtEnd.folder = Path(config.hydra.sweep.dir).absolute()
