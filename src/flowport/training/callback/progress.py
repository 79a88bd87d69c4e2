"""The progress bar."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar without the version number.

    Args:
        refresh: Number of steps between two updates.
    """

    def __init__(self, refresh: int = 20) -> None:
        super().__init__(refresh_rate=refresh)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
