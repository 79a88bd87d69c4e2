"""Looks at the flow while it trains: metrics and a picture at every validation, into TensorBoard."""

import logging
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from flowport.evaluation import Evaluation, gallery

logger = logging.getLogger(__name__)


class Watch(Callback):
    """Translates held-out points with the averaged field, logs val/<metric> and the gallery.

    evaluation: how to translate and what to measure; folder: the run's; columns: points in the picture.
    """

    def __init__(self, evaluation: Evaluation, folder: Path, columns: int = 16) -> None:
        self.evaluation, self.folder, self.columns = evaluation, folder, columns

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.global_rank > 0:
            return
        device = module.device
        source, target = module.source.to(device), module.target.to(device)
        outcome = self.evaluation.outcome(module.ema, source, target, module.randomness, part="validation")
        numbers = self.evaluation.measure(outcome)
        picture = gallery(outcome, target.modality, self.folder / "gallery.png", self.columns)
        for log in trainer.loggers:
            log.log_metrics({f"val/{k}": v for k, v in numbers.items()}, trainer.global_step)
            if log.experiment is not None and trainer.is_global_zero:
                log.experiment.add_image("gallery", picture, trainer.global_step)
        logger.info("step %d: %s", trainer.global_step, ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()))
